"""`experiments.tabular`: the best predictors, the door, and what a run leaves."""

import json

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import running
from experiments.tabular import door, ship, study
import metajax as mj

TINY = ["--width=4", "--layers=1", "--heads=1", "--shots=10", "--fewest_shots=5"]
TINY += ["--queries=4", "--features=2", "--depth=1", "--nodes=2", "--num_tasks=2"]
TINY += ["--num_steps=2", "--eval_every_steps=2", "--log_every_steps=2"]
TINY += ["--num_validation_tasks=2", "--num_test_tasks=3", "--num_devices=1"]


def small(classes=2):
    """An experiment of a moment, for the table of all that run on the engine."""
    return study.experiment(
        mj.data.Tables(2, classes, 8, 4, fewest_shots=4, depth=1, width=2),
        mj.models.table_transformer(classes, width=4, layers=1, heads=1),
        classes,
        optimizer=optax.adam(0.01),
        num_tasks=4,
        num_validation_tasks=2,
        num_test_tasks=3,
        sizes={"width": "4"},
    )


def test_the_best_predictor_of_linear_tasks_is_bayes_rule():
    """The posterior of weights, integrated over a grid of them."""
    tasks = mj.data.LinearRegression(dim=1, shots=3, queries=2, noise_std=0.5)
    task = jax.jit(tasks)(jax.random.key(0))
    best = jax.jit(study.best_outputs, static_argnums=0)
    mean, std = best(tasks, task.support, task.query.inputs)
    weights = jnp.linspace(-6, 6, 4001)
    residuals = task.support.targets - task.support.inputs * weights[None]
    logs = -(weights**2) / 2 - (residuals**2).sum(axis=0) / (2 * 0.5**2)
    shares = jax.nn.softmax(logs)
    values = task.query.inputs * weights[None]
    first = values @ shares
    second = (values - first[:, None]) ** 2 @ shares + 0.5**2
    np.testing.assert_allclose(mean[:, 0], first, atol=1e-4)
    np.testing.assert_allclose(std[:, 0], jnp.sqrt(second), atol=1e-4)


@pytest.mark.parametrize(
    "version, prior, asked, expected",
    [
        ((0, 10, 2), "gaussian_process", [], 1),
        ((0, 10, 2), "gaussian_process", ["--num_devices=2"], 2),
        ((0, 10, 2), "numbers", [], None),
        ((0, 11, 2), "gaussian_process", [], None),
    ],
)
def test_a_device_of_older_jax_draws_gaussian_processes_alone_unless_asked(
    version, prior, asked, expected, parse, tmp_path, monkeypatch
):
    given = []

    def run(make, options, settings, *, started):
        given.append(options.num_devices)
        return 0

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(jax, "__version_info__", version)
    parse(door.FLAGS, ["run", f"--workdir={tmp_path}", f"--prior={prior}", *asked])
    assert door.run() == 0 and given == [expected]


@pytest.mark.parametrize(
    "tasks",
    [
        mj.data.LinearRegression(dim=2, shots=6, queries=8, noise_std=0.5),
        mj.data.GaussianProcess(shots=6, queries=8),
    ],
)
def test_nothing_is_better_than_the_best_predictor(tasks):
    network = mj.models.table_transformer(None, width=4, layers=1, heads=1)
    learner = mj.in_context(mj.models.mlp([], None), network)
    objective = mj.query_loss(learner, mj.losses.gaussian_nll)
    shown = jax.jit(tasks)(jax.random.key(1)).support.inputs
    meta = jax.jit(learner.init)(jax.random.key(0), shown)
    found = mj.evaluate(
        *(study.beside_best(objective, tasks), meta, tasks),
        key=jax.random.key(2),
        num_tasks=300,
    ).values
    mean, interval = mj.mean_and_interval(found["loss"] - found["best_loss"])
    assert mean > interval
    # It is calibrated: its standardised errors are standard normal.
    entropy = found["best_loss"].mean()

    @jax.jit
    @jax.vmap
    def spread(key):
        task = tasks(key)
        _, std = study.best_outputs(tasks, task.support, task.query.inputs)
        return jnp.log(std).mean() + 0.5 * jnp.log(2 * jnp.pi * jnp.e)

    expected = spread(jax.random.split(jax.random.key(3), 300)).mean()
    np.testing.assert_allclose(entropy, expected, atol=0.15)


def test_a_run_leaves_parameters_that_carry_their_sizes(parse, tmp_path, capsys):
    parse(door.FLAGS, ["run", f"--workdir={tmp_path / 'run'}", *TINY])
    assert door.run() == 0
    assert "accuracy" in capsys.readouterr().out
    ship.ship(tmp_path / "run", tmp_path / "half.npz")
    with np.load(tmp_path / "run" / "best.npz") as whole:
        with np.load(tmp_path / "half.npz") as half:
            assert set(whole) == set(half)
            about = json.loads(half["belongs_to.json"])
            assert about["classes"] == "10" and about["width"] == "4"
            for name in set(half) - {"belongs_to.json"}:
                assert half[name].dtype == np.float16
                np.testing.assert_allclose(
                    half[name], whole[name], rtol=1e-3, atol=1e-6
                )


@pytest.mark.parametrize("argument", ["--fewest_shots=49", "--heads=3", "--missing=2"])
def test_flags_that_do_not_fit_are_refused(argument, parse):
    with pytest.raises(flags.Error, match=argument.split("=")[0]):
        parse(door.FLAGS, ["run", "--workdir=unused", argument])
