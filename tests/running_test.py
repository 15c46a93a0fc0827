"""The engine: every experiment that runs on it keeps its promises."""

import contextlib
from functools import cache, partial
import json
import os
from pathlib import Path
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from experiments import regression_in_context, running, transition
from experiments.examples import own_experiment
from experiments.meta_rl import assembling
from experiments.meta_rl.games import bandit
from experiments.meta_rl.learners import rl2
from experiments.meta_rl.outer import OUTER_LOSSES
from experiments.meta_rl.policies import POLICIES
from experiments.noisy_labels import study
from experiments.noisy_labels.study import Study
from experiments.running import loop, measuring, pictures
from experiments.sequences import Reading
from metajax import logs
from tests import learned_optimizer_test, tabular_experiment_test

ROOT = Path(__file__).parents[1]
STEPS = ["--num_steps=4", "--log_every_steps=2", "--eval_every_steps=2"]
READER = ["--length=4", "--width=8", "--layers=1", "--heads=2", "--num_tasks=2"]
READER += ["--num_validation_tasks=3", "--num_test_tasks=3"]
READING = Reading(4, 8, 1, 2, 1e-3, 2, 3, 3)
BILEVEL = Study(
    seed=0,
    train_images=3,
    validation_images=2,
    noise=0.5,
    data_dir=None,
    num_inner_steps=4,
    inner_rate=1.0,
    l2=0.01,
    num_steps=4,
    outer_rate=0.1,
    last=2,
    cg_iterations=3,
    compared_steps=(2,),
)


@pytest.fixture
def by_flags(parse, data_dir):
    """Runs a door: its flags, what runs it, arguments -> how to run it in a directory."""

    def start(own, run, *arguments):
        def run_in(workdir):
            path = [f"--data_dir={data_dir}"] if "data_dir" in own else []
            parse(own, ["run", *STEPS, *arguments, *path, f"--workdir={workdir}"])
            return run()

        return run_in

    return start


def run_in(make, workdir):
    options = running.Options(
        workdir, num_steps=4, log_every_steps=2, eval_every_steps=2
    )
    return running.run(make, options)


# Whatever trains on the engine, but for few_shot, whose tests are its own: from the
# directory of data to the experiment. A new one adds a line.
EXPERIMENTS = {
    "transition": lambda data_dir: transition.experiment(READING, 2, 2, data_dir),
    "regression": lambda data_dir: regression_in_context.experiment(READING, 2, 0.1),
    "noisy_labels": lambda data_dir: study.experiment(
        BILEVEL._replace(data_dir=data_dir), "implicit"
    ),
    "own": lambda data_dir: own_experiment.experiment(),
    "games": lambda data_dir: games(),
    "learned_optimizer": lambda data_dir: learned_optimizer_test.small(),
    "tabular": lambda data_dir: tabular_experiment_test.small(),
}


def games():
    game = bandit.make(arms=2)
    policy = POLICIES["gru"].make(game, 3, width=4, head_width=0)
    read = {"discount": 1.0, "decay": 0.9, "reward_scale": 1.0}
    loss = partial(
        OUTER_LOSSES["ppo"].make,
        clip=0.2,
        value_cost=0.5,
        entropy_bonus=0.1,
        final_entropy_bonus=0.0,
    )
    return assembling.experiment(
        game,
        rl2.make(game, policy, episodes=3, outer_loss=loss, **read),
        optax.adam(0.01),
        assembling.Updates(num_steps=4, epochs=2, parts=2),
        assembling.Tested(3, 3, 3),
        num_tasks=4,
        belongs_to={},
    )


@contextlib.contextmanager
def compiled():
    """The names of the programs that are compiled, or come from the cache."""
    names = []

    def listen(event, seconds, *, fun_name="", **more):
        if event.endswith("/backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def log(workdir):
    timing = ("seconds", "tasks_per_second")
    lines = logs.read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_goes_on_to_the_same_bits(
    name, data_dir, tmp_path, monkeypatch, capsys
):
    for picture in ("curves", "along_axis"):  # At which nothing here looks.
        monkeypatch.setattr(pictures, picture, lambda *_: None)
    built = EXPERIMENTS[name](data_dir)
    nothing = {"draw_tasks": lambda *_: None, "draw": lambda *_: None}
    built = built._replace(step=cache(built.step), **nothing)  # It is traced but once.

    def make():
        return built

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with compiled() as programs:
        assert run_in(make, whole) == 0
    assert programs.count("jit(_train)") == 1  # One program for all steps.
    advance, stops = loop._advance, [2]  # After a checkpoint.

    def stopped(prepared, progress, *rest):
        if stops and int(progress.state.step) >= stops[0]:
            del stops[0]
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(prepared, progress, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_advance", stopped)
        codes = [run_in(make, cut) for _ in range(2)]
    assert codes == [143, 0], capsys.readouterr().err
    assert [line["step"] for line in log(whole)] == [2, 4]
    assert log(cut) == log(whole)
    for file in ("best.npz", "result.npz"):
        one, other = (np.load(workdir / file) for workdir in (whole, cut))
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_a_study_runs_once_what_it_lacks(
    by_flags, parse, tmp_path, capsys, monkeypatch
):
    for name in ("curves", "along_axis"):  # Of each run, at which nothing here looks.
        monkeypatch.setattr(pictures, name, lambda *_: None)
    run = partial(by_flags, transition.FLAGS, transition.run, *READER, "--size=2")
    assert run("--maps=2")(tmp_path) == 0
    before = (tmp_path / "maps-2" / "starts.jsonl").read_text()
    assert run("--maps=1,2")(tmp_path) == 0
    text = (tmp_path / "result.txt").read_text()
    assert text in capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["1", "2"]
    assert (tmp_path / "maps-2" / "starts.jsonl").read_text() == before
    assert (tmp_path / "result.png").stat().st_size > 5_000
    again = ["run", "--eval_only", f"--workdir={tmp_path}", "--num_test_tasks=4"]
    parse(transition.FLAGS, again)  # With the flags that its runs have recorded.
    assert transition.run() == 0 and len(list(tmp_path.glob("*/eval-*.json"))) == 2
    assert run("--maps=2", "--width=4")(tmp_path) == 2
    assert "--width=4 --width=8" in capsys.readouterr().err


def test_the_own_experiment_reports_along_its_axis(tmp_path):
    assert run_in(own_experiment.experiment, tmp_path) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["axis"] == "inner steps"
    assert [row["inner_steps"] for row in result["rows"]] == [0, 1, 5]
    assert (tmp_path / "curves.png").stat().st_size > 5_000
    options = running.Options(tmp_path, eval_only=True)
    assert running.run(own_experiment.experiment, options) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["rows"] == result["rows"]


def objective(key, meta, task):
    del key, meta
    return task.mean(), {"loss": task, "first": task[0]}


def sampler(key):
    return jax.random.uniform(key, (3,))


def test_one_objective_of_many_places_is_many_of_one():
    def at(place):
        return lambda key, meta, task: (task.mean(), {"loss": task[place]})

    def measured(objectives):
        fixed = {"axis": "place", "seed": running.TEST, "num_tasks": 5}
        return running.on_tasks(sampler, objectives, **fixed)({}).values["loss"]

    whole = {(0, 1, 2): lambda key, meta, task: (task.mean(), {"loss": task})}
    each = {(place,): at(place) for place in range(3)}
    np.testing.assert_array_equal(measured(whole), measured(each))


@pytest.mark.parametrize("larger_is_better, best", [(True, 0.75), (False, -0.75)])
def test_scores_are_means_whose_larger_is_better(larger_is_better, best):
    values = {"x": np.array([[0.5, 1.0], [0.25, 1.25]])}
    found = running.Measurement("steps", (0, 1), values, "")
    metric = running.Metric("x", larger_is_better)
    assert measuring.score(found, metric) == best
    values["x"][0] = np.nan
    assert measuring.score(found, metric) == -np.inf


def test_measures_side_by_side_keep_their_names_and_tasks():
    fixed = {"axis": "place", "seed": running.TEST, "num_tasks": 5}
    whole = {(0, 1, 2): lambda key, meta, task: (task.mean(), {"loss": task})}
    one = running.on_tasks(sampler, whole, **fixed)
    other = running.on_tasks(lambda key: 2 * sampler(key), whole, **fixed)
    reported = []
    both = running.side_by_side({"a": one, "b": other})
    found = both({}, reported.append)
    np.testing.assert_array_equal(2 * found.values["a_loss"], found.values["b_loss"])
    assert sum(reported) == both.total == 10
    assert found.tasks_hash not in (one({}).tasks_hash, other({}).tasks_hash)


def test_tables_have_a_line_a_place_and_the_metric_that_counts_first():
    rows = [
        {"of_steps": n}
        | {
            name: {"mean": n / 4, "interval": 0.1, "median": 0.5}
            for name in ("loss", "share", "squared_error_of_the_best")
        }
        for n in range(3)
    ]
    summary = {"axis": "of steps", "rows": rows, "num_tasks": 9, "tasks_hash": "f00"}
    summary |= {"best_step": 1, "steps": 2}
    metric = running.Metric("share", is_share=True)
    head, names, *lines = running.table(summary, metric, shown=[0, 2]).splitlines()
    assert "9 unseen tasks (f00), parameters of step 1 of 2" in head
    long = "squared error of the best (95%)"
    assert (
        names.split() == f"of steps share (95%) loss (95%) median {long} median".split()
    )
    ends = [line.rindex("0.100") + len("0.100") for line in lines]  # Of its interval.
    assert ends == [names.index(long) + len(long)] * 2 and f"  {long}" in names
    assert [line.split()[0] for line in lines] == ["0", "2"]
    assert lines[1].split()[1:4] == ["50.00", "+-", "10.00%"]


@pytest.mark.parametrize(
    "module",
    [
        "few_shot",
        "meta_rl",
        "transition",
        "noisy_labels",
        "learned_optimizer",
        "tabular",
    ],
)
def test_help_is_quick_and_lists_the_flags(module):
    command = [sys.executable, "-X", "importtime", "-m", f"experiments.{module}"]
    done = subprocess.run(
        [*command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--num_steps" in done.stdout
    assert "jax" not in done.stderr and "numpy" not in done.stderr
