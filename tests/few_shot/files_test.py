"""The runner, from its flags to its files, and finished runs looked at again."""

import json

import numpy as np
import pytest

from experiments import compare
from experiments.running import engine
import metajax as mj
from metajax import logs
from tests.few_shot.runs import SCHEDULED, SHORT, TINY, best


def test_a_run_leaves_everything_in_its_directory(finished):
    workdir = finished()
    result = json.loads((workdir / "result.json").read_text())
    assert [row["inner_steps"] for row in result["rows"]] == [0, 1]
    assert (result["steps"], result["num_tasks"], result["seed"]) == (4, 3, 0)
    assert result["best_step"] in (2, 4)
    values = np.load(workdir / "result.npz")
    np.testing.assert_allclose(
        values["loss_1"].mean(), result["rows"][1]["loss"]["mean"], rtol=1e-6
    )
    lines = logs.read_metrics(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [("validation/loss" in line) for line in lines] == [False, True] * 2
    record = json.loads((workdir / "starts.jsonl").read_text())
    assert record["versions"]["jax"] and "cpu device" in record["device"]
    assert "--hidden=4" in (workdir / "run.flags").read_text().splitlines()
    assert list(workdir.glob("events.out.tfevents*"))
    for picture in ("tasks", "curves", "result", "predictions"):
        assert (workdir / f"{picture}.png").stat().st_size > 5_000


def test_a_saved_run_is_evaluated_alone_with_its_own_flags(run, finished):
    workdir = finished()
    before = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
    again = ["--eval_only", "--platform=cpu", f"--workdir={workdir}"]
    code, out, _ = run(*again)
    assert code == 0 and out.strip() == (workdir / "result.txt").read_text().strip()
    for changed in ("--num_test_tasks=5", "--inner_rate=0.5"):
        code, out, _ = run(*again, changed)
        assert code == 0
    results = [json.loads(path.read_text()) for path in workdir.glob("eval-*.json")]
    assert {result["num_tasks"] for result in results} == {3, 5}
    assert any("--inner_rate=0.5" in result["changed"] for result in results)
    assert before == {p: p.read_bytes() for p in before}
    code, _, errors = run(*again, "--tasks_per_chunk=4")
    assert code == 1 and "must divide" in errors


def test_a_saved_run_is_evaluated_with_flags_that_only_its_learner_reads(
    run, draws, tmp_path
):
    """Though the default learner would refuse them."""
    draws()
    arguments = ["--data=glyphs", "--learner=protonet", "--model=mlp", "--ways=5"]
    arguments += [flag for flag in SHORT if "inner_steps" not in flag]
    workdir = f"--workdir={tmp_path / 'run'}"
    assert run(*arguments, "--num_steps=0", workdir)[0] == 0
    for picture in ("tasks", "task"):
        assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 5_000
    code, _, errors = run("--eval_only", workdir, "--eval_ways=6")
    assert code == 0, errors
    (result,) = (tmp_path / "run").glob("eval-*.json")
    assert "--eval_ways=6" in json.loads(result.read_text())["changed"]


def test_a_run_from_before_a_flag_is_evaluated_as_the_same(run, finished):
    workdir = finished()
    lines = (workdir / "run.flags").read_text().splitlines()
    assert "--rate_per=parameter" in lines
    older = [line for line in lines if line != "--rate_per=parameter"]
    (workdir / "run.flags").write_text("\n".join(older))
    code, _, errors = run("--eval_only", f"--workdir={workdir}", "--remat=step")
    assert code == 0, errors
    (result,) = workdir.glob("eval-*.json")
    assert json.loads(result.read_text())["changed"] == ["--remat=none", "--remat=step"]


def test_steps_of_their_own_are_evaluated_with_more_and_fewer(run, finished):
    again = ["--eval_only", "--platform=cpu", f"--workdir={finished(*SCHEDULED)}"]
    code, out, errors = run(*again, "--eval_inner_steps=0,1,3")
    assert code == 0, errors
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["0", "1", "3"]


@pytest.mark.parametrize(
    "line",
    [
        "--flagfile=/etc/passwd",
        "--run_with_profiling",
        "--compilation_cache=/tmp/theirs",
        "--workdir=/elsewhere",
        "--of_another_version=3",
        "print('hello')",
    ],
)
def test_what_a_run_has_recorded_is_data_and_nothing_else(run, finished, line):
    workdir = finished()
    with (workdir / "run.flags").open("a") as file:
        file.write(f"{line}\n")
    code, _, errors = run("--eval_only", f"--workdir={workdir}")
    assert code == 1 and repr(line) in errors
    assert "does not record: it was made by commit" in errors


def test_a_log_line_that_was_cut_off_is_dropped(finished):
    workdir = finished()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')
    assert len(logs.read_metrics(workdir / "metrics.jsonl")) == 4


def test_own_vectors_train_without_a_picture(run, draws, tmp_path):
    draws()
    inputs = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", inputs=inputs, labels=np.arange(60) % 15)
    arguments = ["--data=arrays", f"--data_path={tmp_path / 'mine.npz'}", "--ways=3"]
    arguments += ["--shots=1", "--queries=1", f"--workdir={tmp_path / 'run'}"]
    code, out, errors = run(*TINY, *arguments)
    assert code == 0 and "accuracy" in out, errors
    drawn = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert drawn == {"curves.png", "result.png", "task.png"}


def test_learned_rates_are_logged_and_drawn(finished):
    workdir = finished(*SCHEDULED)
    lines = logs.read_metrics(workdir / "metrics.jsonl")
    rates = [line["rates/head/kernel/1"] for line in lines if "validation/loss" in line]
    assert len(rates) == 2 and rates[0] != rates[1]
    assert (workdir / "rates.png").stat().st_size > 5_000


def test_implicit_runs_report_and_warn_of_their_residuals(run, tmp_path, caplog):
    flags = ["--learner=imaml", "--inner_rate=1e-4"]
    assert run(*TINY, *flags, f"--workdir={tmp_path / 'run'}")[0] == 0
    line = logs.read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert 0.9 < line["train/inner_gradient"] < 1 and line["train/solver_residual"] >= 0
    assert "of the gradient is left after it" in caplog.text


def test_parameters_of_one_run_start_another_and_the_frozen_stay(
    run, finished, tmp_path
):
    first, second = finished(), tmp_path / "second"
    start = [f"--initial_params={first / 'best.npz'}", "--learner=anil"]
    frozen = ["--frozen=Dense_*", f"--workdir={second}"]
    assert run(*TINY, *start, *frozen)[0] == 0
    before, after = best(first), best(second)
    assert (
        set(before)
        == set(after)
        == {
            f"{layer}/{name}"
            for layer in ("Dense_0", "head")
            for name in ("bias", "kernel")
        }
    )
    for name in before:
        same = np.array_equal(before[name], after[name])
        assert same == name.startswith("Dense_"), name
    other = ["--init_std=0.1", "--hidden=5", f"--workdir={tmp_path / 'third'}"]
    code, _, errors = run(*TINY, *start, *other)
    assert code == engine.BAD_CONFIGURATION
    assert "belongs to hidden=['4'], but here it is ['5']" in errors
    (first / "best.npz").unlink()  # Its own checkpoint is enough from now on.
    assert run("--eval_only", "--platform=cpu", f"--workdir={second}")[0] == 0


def test_two_runs_are_compared_task_by_task(run, finished, tmp_path, capsys):
    first, second = finished(), tmp_path / "second"
    code, out, _ = run(*TINY, "--seed=1", f"--workdir={second}")
    assert code == 0 and out.startswith((second / "result.txt").read_text())
    assert compare.compare(first, second) == 0
    out = capsys.readouterr().out
    results = [dict(np.load(path / "result.npz")) for path in (first, second)]
    a, b = (result["loss_1"].mean() for result in results)
    line = next(line for line in out.splitlines() if "loss_1" in line)
    np.testing.assert_allclose(float(line.split()[1]), a - b, atol=1e-3)
    np.savez(second / "result.npz", **results[1] | {"tasks_hash": "another"})
    assert compare.compare(first, second) == 2
    assert "same tasks" in capsys.readouterr().err
    assert compare.compare(first, tmp_path / "absent") == 2


def test_runs_of_several_seeds_are_compared_seed_by_seed(tmp_path, capsys):
    random, gaps = np.random.default_rng(0), []
    for seed in (0, 2, 10):
        values = [random.normal(size=7) for _ in "ab"]
        gaps.append((values[0] - values[1]).mean())
        for name, value in zip("ab", values):
            (tmp_path / name / f"seed_{seed}").mkdir(parents=True)
            saved = {"loss_1": value, "tasks_hash": "one"}
            np.savez(tmp_path / name / f"seed_{seed}" / "result.npz", **saved)
    a, b = tmp_path / "a", tmp_path / "b"
    assert compare.compare(a, b) == 0
    out = capsys.readouterr().out
    assert "3 seeds of 7 tasks" in out
    mean, interval = mj.mean_and_interval(np.array(gaps))
    assert f"{mean:+9.4f} +- {interval:.4f}" in out
    assert compare.compare(a, b / "seed_2") == 2
    assert "has 3 seeds and the other 1" in capsys.readouterr().err
