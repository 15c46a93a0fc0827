"""Rules learned on small trainings: the trainings, the tuned baselines, the door."""

import json
import math

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
import pytest

from experiments import running
from experiments.learned_optimizer import door, problems, study, trainings
import metajax as mj
from scripts.runs import RULE_RUNS

TINY = ["--data=glyphs", "--ways=2", "--shots=3", "--queries=2", "--hidden=3"]
TINY += [
    "--batch=4",
    "--rule=scheduled_adam",
    "--horizon=4",
    "--window=2",
    "--places=2",
]
TINY += ["--num_tasks=2", "--num_validation_tasks=2", "--num_test_tasks=3"]
TINY += ["--baselines=adam,lion_cosine"]
TINY += ["--num_steps=4", "--eval_every_steps=2", "--log_every_steps=2"]


def noise(split="train"):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 4, 4, 1), dtype=np.uint8)
    labels = np.repeat(np.arange(6), 8)
    return mj.data.from_arrays(images.reshape(-1, 4, 4, 1), labels)


@pytest.fixture
def drawn_noise(monkeypatch):
    """Noise in the place of glyphs."""
    problems._classes.cache_clear()
    monkeypatch.setattr(mj.data, "glyphs", noise)
    yield
    problems._classes.cache_clear()


def small_problem():
    tasks = mj.data.FewShot(noise(), ways=2, shots=3, queries=2)
    return mj.problems.networks(tasks, mj.models.mlp([], 2), batch=4)


def small():
    """An experiment without data sets, for the table of all that run on the engine."""
    problem = small_problem()
    return study.experiment(
        mj.rules.scheduled_adam(4, rate=0.1, knots=2),
        problem,
        problem,
        study.Windows("reused", window=2, horizon=4, std=0.1, judged_by="query"),
        study.Tested(problem, problem, ("adam",), 2, 3, num_steps=4, places=2),
        optimizer=optax.adam(0.01),
        num_tasks=4,
        rule_name="scheduled_adam",
    )


def test_a_training_is_looked_at_after_each_stretch():
    problem = small_problem()
    task = jax.jit(problem.sample)(jax.random.key(0))
    optimizer, key = optax.sgd(0.5, momentum=0.9), jax.random.key(1)
    found = trainings.trained(problem, (0, 2, 4))(key, optimizer, task)
    init_key, key = jax.random.split(key)
    params = problem.init(init_key, task)

    @jax.jit
    def step(params, state, key):
        grads = jax.grad(problem.loss, argnums=1)(key, params, task)
        moves, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, moves), state

    state, expected = optimizer.init(params), []
    for index in range(5):
        if index % 2 == 0:
            expected.append(problem.losses(params, task)["test"])
        params, state = step(params, state, jax.random.fold_in(key, index))
    np.testing.assert_allclose(found["test"], expected, rtol=1e-5)


def test_others_are_tuned_to_the_best_of_their_rates():
    problem = mj.problems.quadratics(3)
    baselines = {n: trainings.baseline(n, 9) for n in ("sgd", "adam_cosine")}
    best = trainings.best_rates(problem, baselines, 9, by="train", seed=3, num_tasks=5)

    def objective(key, meta, task):
        params = problem.init(jax.random.split(key)[0], task)

        def last(rate):
            def step(params, _):
                return params - rate * jax.grad(problem.loss, 1)(key, params, task), ()

            params_at_end, _ = jax.lax.scan(step, params, length=9)
            return problem.losses(params_at_end, task)["train"]

        return jnp.float32(0), {"last": jax.lax.map(last, trainings.RATES)}

    found = mj.evaluate(
        objective, (), problem.sample, key=jax.random.key(3), num_tasks=5
    )
    place = np.log(found.values["last"]).mean(axis=0).argmin()
    assert np.float32(best["sgd"]) == trainings.RATES[place]
    assert 1e-3 < best["adam_cosine"] <= 1


def test_a_rate_falls_along_a_cosine():
    optimizer = trainings.baseline("sgd_cosine", 4)(jnp.float32(2))
    state, moves = optimizer.init(jnp.ones(1)), []
    for _ in range(6):
        move, state = optimizer.update(jnp.ones(1), state)
        moves.append(-move[0])
    expected = [1 + math.cos(math.pi * min(t / 4, 1)) for t in range(6)]
    np.testing.assert_allclose(moves, expected, atol=1e-6)


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


CHOICE = problems.Choice("perceptron", "glyphs", 3, 1, None, None, 4, 2, 3, 2, 4, None)


@pytest.mark.parametrize(
    "changes, tells",
    [
        ({}, {"train", "test"}),
        ({"problem": "convolution"}, {"train", "test"}),
        ({"max_hidden": 5, "max_layers": 3}, {"train", "test"}),
        ({"problem": "quadratic"}, {"train"}),
        ({"problem": "rosenbrock"}, {"train"}),
    ],
)
def test_each_problem_is_a_training(changes, tells, drawn_noise):
    problem = problems.make(CHOICE._replace(**changes), "train")

    @jax.jit
    def found(key):
        keys = jax.random.split(key, 3)
        task = problem.sample(keys[0])
        params = problem.init(keys[1], task)
        slope = jax.value_and_grad(problem.loss, 1)(keys[2], params, task)
        return problem.losses(params, task), slope

    losses, slope = jax.device_get(found(jax.random.key(0)))
    assert losses.keys() == tells and all(map(np.isfinite, losses.values()))
    assert mj.trees.all_finite(slope)
    assert (problem.query_loss is None) == (tells == {"train"})


def test_what_is_tested_is_of_one_size():
    varied = CHOICE._replace(max_hidden=9)
    assert varied.changed(data="mnist", hidden=None).max_hidden == 9
    assert varied.changed(hidden=6)[2:6] == (6, 1, None, None)


def test_a_rule_is_learned_judged_and_carried_further(
    parse, tmp_path, capsys, drawn_noise
):
    def run(*arguments):
        parse(door.FLAGS, ["run", f"--workdir={tmp_path}", *arguments])
        return door.run(), capsys.readouterr().out

    code, out = run(*TINY)
    assert code == 0 and "train loss: rule" in out
    result = json.loads((tmp_path / "result.json").read_text())
    last = result["rows"][-1]
    assert last["inner_steps"] == 4 and last["over_adam_train"]["factor"] >= 1
    assert set(last["rates"]) == {"adam", "lion_cosine"}
    assert "lion_cosine" in out
    for name in ("trainings.png", "rule.png"):
        assert min(Image.open(tmp_path / name).size) > 100
    assert "def optimizer()" in (tmp_path / "rule.py").read_text()
    code, out = run(
        "--eval_only", "--eval_hidden=6", "--eval_steps=8", "--baselines=sgd"
    )
    assert code == 0 and "\n          8" in out


@pytest.mark.parametrize("run", RULE_RUNS, ids=lambda run: run.name)
def test_recorded_runs_and_their_tests_have_flags_that_fit(run, parse):
    presets = door.command.PRESETS / "learned_optimizer"
    preset = f"--flagfile={run.preset or run.name}"
    for changes in ((), *run.tests.values()):
        argv = ["run", "--workdir=unused", preset, *run.flags, *changes]
        parse(door.FLAGS, argv, presets)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--window=3"], "--window must divide --horizon"),
        (["--places=3"], "--places must divide"),
        (["--eval_steps=205"], "--places must divide"),
        (["--std=0"], "must be positive"),
        (["--baselines=adma"], "--baselines must be among sgd"),
        (["--problem=transformer"], "transformer is for --data=clinc150"),
        (["--eval_data=clinc150"], "transformer is for --data=clinc150"),
        (["--problem=quadratic", "--judged_by=query"], "not for drawn functions"),
        (["--max_hidden=8"], "at least --hidden"),
        (["--problem=convolution", "--max_hidden=64"], "for --problem=perceptron"),
        (["--num_test_tasks=1"], "lower|at least|>= 2|2 or"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, parse):
    with pytest.raises(flags.Error, match=message):
        parse(door.FLAGS, ["run", "--workdir=unused", *arguments])
