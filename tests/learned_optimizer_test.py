"""Rules learned on small trainings: the trainings, the tuned baselines, the door."""

import json

from absl import flags
import jax
import numpy as np
import optax
from PIL import Image
import pytest

from experiments import running
from experiments.learned_optimizer import door, study, trainings
import metajax as mj

NETWORKS = trainings.Networks(hidden=3, layers=0, ways=2, batch=4)
TINY = ["--data=glyphs", "--ways=2", "--shots=3", "--queries=2", "--hidden=3"]
TINY += [
    "--batch=4",
    "--rule=scheduled_adam",
    "--horizon=4",
    "--window=2",
    "--places=2",
]
TINY += ["--num_tasks=2", "--num_validation_tasks=2", "--num_test_tasks=3"]
TINY += ["--num_steps=4", "--eval_every_steps=2", "--log_every_steps=2"]


def noise(split="train"):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 4, 4, 1), dtype=np.uint8)
    labels = np.repeat(np.arange(6), 8)
    return mj.data.from_arrays(images.reshape(-1, 4, 4, 1), labels)


def sampler():
    return mj.data.FewShot(noise(), ways=2, shots=3, queries=2)


def small():
    """An experiment without data sets, for the table of all that run on the engine."""
    tasks = sampler()
    return study.experiment(
        mj.rules.scheduled_adam(4, rate=0.1, knots=2),
        NETWORKS,
        tasks,
        tasks,
        study.Windows("reused", window=2, horizon=4, std=0.1, judged_by="query"),
        study.Tested(NETWORKS, tasks, tasks, 2, 3, num_steps=4, places=2),
        optimizer=optax.adam(0.01),
        num_tasks=4,
        rule_name="scheduled_adam",
    )


def test_a_training_is_looked_at_after_each_stretch():
    task = jax.jit(sampler())(jax.random.key(0))
    optimizer, key = optax.sgd(0.5, momentum=0.9), jax.random.key(1)
    found = trainings.trained(NETWORKS, (0, 2, 4))(key, optimizer, task)
    init_key, key = jax.random.split(key)
    params = NETWORKS.init(init_key, task)

    @jax.jit
    def step(params, state, key):
        grads = jax.grad(NETWORKS.loss, argnums=1)(key, params, task.support)
        moves, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, moves), state

    state, expected = optimizer.init(params), []
    for index in range(5):
        if index % 2 == 0:
            expected.append(NETWORKS.loss_on_all(params, task.query))
        params, state = step(params, state, jax.random.fold_in(key, index))
    np.testing.assert_allclose(found["test"], expected, rtol=1e-5)


def test_adam_is_tuned_to_the_best_of_its_rates():
    tasks = sampler()
    best = trainings.best_rates(NETWORKS, tasks, 4, seed=3, num_tasks=5)
    assert set(best) == {"adam", "cosine"}

    def objective(key, meta, task):
        run = trainings.trained(NETWORKS, (0, 4))

        def last(rate):
            return run(key, trainings.adam(rate), task)["train"][-1]

        return jax.numpy.float32(0), {"last": jax.lax.map(last, trainings.RATES)}

    found = mj.evaluate(objective, (), tasks, key=jax.random.key(3), num_tasks=5)
    place = found.values["last"].mean(axis=0).argmin()
    assert np.float32(best["adam"]) == trainings.RATES[place]


def test_a_ratio_is_a_geometric_mean_over_tasks():
    values = {
        "rule_train": np.array([[2.0], [8.0], [0.0]]),
        "adam_train": np.array([[1.0], [1.0], [1e-7]]),
    }
    found = running.Measurement("inner steps", (9,), values, "hash")
    mean, factor = study.ratio(found, "adam", "train", 9)
    np.testing.assert_allclose(mean, 16 ** (1 / 3))
    logs = np.log([2, 8, 1])
    np.testing.assert_allclose(np.log(factor), mj.mean_and_interval(logs)[1])


def test_a_rule_is_learned_judged_and_carried_further(
    parse, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(mj.data, "glyphs", noise)

    def run(*arguments):
        parse(door.FLAGS, ["run", f"--workdir={tmp_path}", *arguments])
        return door.run(), capsys.readouterr().out

    code, out = run(*TINY)
    assert code == 0 and "over adam" in out
    result = json.loads((tmp_path / "result.json").read_text())
    last = result["rows"][-1]
    assert last["inner_steps"] == 4 and last["over_adam_train"]["factor"] >= 1
    assert set(last["rates"]) == {"adam", "cosine"}
    assert min(Image.open(tmp_path / "trainings.png").size) > 100
    code, out = run("--eval_only", "--eval_hidden=6", "--eval_steps=8")
    assert code == 0 and "\n          8" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--window=3"], "--window must divide --horizon"),
        (["--places=3"], "--places must divide"),
        (["--eval_steps=205"], "--places must divide"),
        (["--std=0"], "must be positive"),
        (["--num_test_tasks=1"], "lower|at least|>= 2|2 or"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, parse):
    with pytest.raises(flags.Error, match=message):
        parse(door.FLAGS, ["run", "--workdir=unused", *arguments])
