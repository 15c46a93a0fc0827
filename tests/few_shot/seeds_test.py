"""Runs of several seeds and on several devices are what each alone would be."""

import json
import signal

import numpy as np
import pytest

from experiments.running import engine, measuring, preparing
from tests.few_shot.runs import TINY, best, lines, saved, trained


def test_a_run_is_the_same_on_any_number_of_devices(with_flags):
    flags = [*TINY, "--num_tasks=4", "--workdir=unused"]
    one, *others = (
        with_flags(trained, *flags, f"--num_devices={number}")[0]
        for number in (1, 2, 4)
    )
    for losses in others:
        assert losses == pytest.approx(one, rel=1e-4)


def test_seeds_of_one_program_leave_what_their_own_runs_would(run, finished, tmp_path):
    workdir = tmp_path / "seeds"
    arguments = [*TINY, "--num_seeds=2", f"--workdir={workdir}"]
    code, out, errors = run(*arguments)
    assert code == 0, errors
    assert "2 seeds, 0 to 1: loss over tasks, by seed" in out
    means = []
    for seed in range(2):
        alone = finished(f"--seed={seed}", "--num_devices=1")
        own = workdir / f"seed_{seed}"
        for line, expected in zip(lines(own), lines(alone), strict=True):
            assert line == pytest.approx(expected, rel=1e-4)
        chosen, expected = best(own), best(alone)
        for name in expected:
            np.testing.assert_allclose(chosen[name], expected[name], rtol=1e-4)
        found, expected = (
            json.loads((directory / "result.json").read_text())
            for directory in (own, alone)
        )
        for name in ("seed", "steps", "best_step", "num_tasks", "tasks_hash"):
            assert found[name] == expected[name]
        assert list(own.glob("events.out.tfevents*"))
        means.append([row["loss"]["mean"] for row in found["rows"]])
        expected = [row["loss"]["mean"] for row in expected["rows"]]
        assert means[-1] == pytest.approx(expected, rel=1e-4)
    result = json.loads((workdir / "result.json").read_text())
    assert result["seeds"] == [0, 1]
    for row, values in zip(result["rows"], np.transpose(means), strict=True):
        expected = [values.mean(), values.std(ddof=1), values.min(), values.max()]
        assert list(row["loss"].values()) == pytest.approx(expected)
    code, out, errors = run(
        "--eval_only", "--platform=cpu", f"--workdir={workdir}", "--num_test_tasks=2"
    )
    assert code == 0 and "2 seeds" in out, errors
    code, _, errors = run("--eval_only", f"--workdir={workdir}", "--seed=1")
    assert code == 2 and "a run of other seeds: --seed=0 --seed=1." in errors
    (name,) = {path.name for path in workdir.glob("*/eval-*.json")}
    assert json.loads((workdir / name).read_text())["num_tasks"] == 2


def test_seeds_of_one_program_go_on_together(run, stopped, finished, tmp_path):
    flags = ["--num_seeds=2", "--num_devices=1"]
    whole, cut = finished(*flags), tmp_path / "cut"
    arguments = [*TINY, *flags, f"--workdir={cut}"]
    assert stopped("_advance", signal.SIGTERM, 0, *arguments)[0] == 143
    code, _, errors = run(*arguments)
    assert code == 0, errors
    for seed in ("seed_0", "seed_1"):
        assert lines(cut / seed) == lines(whole / seed)
        for file in ("best.npz", "result.txt"):
            assert (cut / seed / file).read_bytes() == (
                whole / seed / file
            ).read_bytes()


def test_a_seed_that_fails_is_named_and_all_stay_at_their_checkpoint(
    run, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    arguments = [*TINY, "--num_seeds=3", "--max_skipped=0", f"--workdir={workdir}"]
    advance = preparing.advance

    def spoiled(experiment, state, *rest):
        bias = state.meta["Dense_0"]["bias"]
        if int(state.step[0]) == 2:
            state.meta["Dense_0"]["bias"] = bias.at[1].set(np.nan)
        return advance(experiment, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "advance", spoiled)
        code, _, errors = run(*arguments)
    assert code == engine.NON_FINITE
    assert "step 2 has meta-loss nan" in errors and "--seed=1, and what" in errors
    assert saved(workdir) == [2]
    assert run(*arguments)[0] == 0


def test_shares_of_seeds_are_percentages():
    rows = [[{"steps": 0, "accuracy": {"mean": mean}}] for mean in (0.25, 0.75)]
    summaries = [
        {"seed": 3 + i, "axis": "steps", "rows": row} for i, row in enumerate(rows)
    ]
    metric = measuring.Metric("accuracy", is_share=True)
    _, text = measuring.over_seeds(summaries, metric)
    last = text.splitlines()[-1]
    assert last.split() == ["0", "50.00%", "35.36%", "25.00%", "75.00%"]
