"""Runs that are cut off go on to the same result, or say why they do not."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal

import numpy as np
import pytest

from experiments.running import engine, workdirs
from metajax import checkpoints
from tests.few_shot.runs import TINY, best, lines, saved


def test_a_run_that_is_stopped_goes_on_to_the_same_result(
    run, stopped, finished, tmp_path
):
    """Though what it does changes from step to step, wherever it is stopped."""
    flags = ["--outer_schedule=cosine", "--first_order_until=3", "--log_every_steps=2"]
    whole, cut = finished(*flags), tmp_path / "cut"
    arguments = [*TINY, *flags, f"--workdir={cut}"]
    # In the middle of a line, in a validation, and once more.
    code, _, errors = stopped("_advance", signal.SIGTERM, 0, *arguments)
    assert code == 143 and "SIGTERM" in errors and saved(cut) == [1]
    assert stopped("_validate", signal.SIGINT, 2, *arguments)[0] == 130
    assert saved(cut) == [1, 2] and lines(cut) == []
    assert stopped("_advance", signal.SIGTERM, 2, *arguments)[0] == 143
    assert saved(cut) == [2, 3]
    code, _, errors = run(*arguments)
    assert code == 0, errors
    assert lines(cut) == lines(whole)
    assert (cut / "result.txt").read_text() == (whole / "result.txt").read_text()
    chosen, same = best(whole), best(cut)
    for name in chosen:
        np.testing.assert_array_equal(chosen[name], same[name])


def test_no_line_is_written_twice_from_an_older_checkpoint(
    run, stopped, finished, tmp_path, caplog
):
    """That was saved before a line which was written after it."""
    cut = tmp_path / "cut"
    arguments = [*TINY, f"--workdir={cut}"]
    assert stopped("_advance", signal.SIGTERM, 0, *arguments)[0] == 143
    assert stopped("_validate", signal.SIGTERM, 2, *arguments)[0] == 143
    assert saved(cut) == [1, 2] and [line["step"] for line in lines(cut)] == [1]
    (cut / "checkpoints" / "2.npz").write_bytes(b"")
    assert run(*arguments)[0] == 0
    assert "2.npz is damaged" in caplog.text
    assert lines(cut) == lines(finished())


def test_intervals_of_log_and_checkpoints_change_no_parameter(finished):
    one, other = (
        finished(*flags)
        for flags in (
            ("--eval_every_steps=4",),
            ("--eval_every_steps=4", "--log_every_steps=3"),
        )
    )
    assert [line["step"] for line in lines(other)] == [3, 4]
    mean = np.mean([line["train/loss"] for line in lines(one)[:3]])
    assert lines(other)[0]["train/loss"] == mean
    assert (one / "best.npz").read_bytes() == (other / "best.npz").read_bytes()


def test_a_directory_in_use_is_not_written_to(run, begun, tmp_path, caplog):
    workdir = tmp_path / "run"
    begun(*TINY, f"--workdir={workdir}")
    (workdir / "lock").write_text("process 1234 on some-host\n")
    before = {path: path.read_bytes() for path in workdir.iterdir()}
    with (workdir / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, errors = run(*TINY, f"--workdir={workdir}")
    assert code == 2 and f"{workdir} is in use by process 1234 on some-host" in errors
    assert before == {path: path.read_bytes() for path in workdir.iterdir()}
    # The lock of a process that was killed holds nobody up.
    with caplog.at_level("INFO"):
        assert run(*TINY, f"--workdir={workdir}")[0] == 0
    assert "left by process 1234 on some-host" in caplog.text


def test_of_two_starts_in_a_new_directory_the_first_to_claim_it_has_it(tmp_path):
    workdir = tmp_path / "run"

    settings = workdirs.Settings({"seed": "--seed=0"})
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        held = [first, second]
        locked = [workdirs.check(settings, workdir, each) for each in held]
        workdirs.claim(settings, workdir, first, locked[0])
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
            workdirs.claim(settings, workdir, second, locked[1])
    with contextlib.ExitStack() as late:
        with pytest.raises(ValueError, match="another run has begun"):
            workdirs.claim(settings, workdir, late, False)


def test_a_directory_of_another_run_is_not_written_over(run, finished, tmp_path):
    workdir = finished()
    before = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
    code, _, errors = run(*TINY, f"--workdir={workdir}")
    assert code == 2 and "holds a finished run" in errors
    (workdir / "result.json").unlink()
    code, _, errors = run(*TINY, "--seed=1", f"--workdir={workdir}")
    assert code == 2 and "--seed=0 --seed=1" in errors
    after = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
    assert {p: before[p] for p in after} == after
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    code, _, errors = run(*TINY, f"--workdir={tmp_path / 'mine'}")
    assert code == 2 and "not empty" in errors


def test_fewer_steps_than_were_taken_end_with_a_validation(run, stopped, tmp_path):
    arguments = [*TINY, "--eval_every_steps=4", f"--workdir={tmp_path / 'run'}"]
    assert stopped("_advance", signal.SIGTERM, 2, *arguments)[0] == 143
    assert run(*arguments, "--num_steps=2")[0] == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["best_step"]) == (3, 3)


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    run, finished, tmp_path, monkeypatch
):
    arguments = (*TINY, f"--workdir={tmp_path / 'run'}")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write_array", full)
        code, _, errors = run(*arguments)
    assert code == engine.UNWRITABLE and "No space left" in errors
    assert "--keep_checkpoints" in errors and len(errors.splitlines()) == 1
    assert run(*arguments)[0] == 0
    assert lines(tmp_path / "run") == lines(finished())


def test_a_checkpoint_of_other_settings_is_refused(run, begun, finished, tmp_path):
    whole, other = finished(), tmp_path / "other"
    begun(*TINY, "--inner_rate=0.5", f"--workdir={other}")
    shutil.copytree(whole / "checkpoints", other / "checkpoints")
    code, _, errors = run(*TINY, "--inner_rate=0.5", f"--workdir={other}")
    assert code == 2
    assert "inner_rate was 0.01, is 0.5" in errors


def test_other_data_under_the_same_path_is_not_gone_on_with(run, stopped, tmp_path):
    path, labels = tmp_path / "mine.npz", np.arange(60) % 15

    def write(seed):
        inputs = np.random.default_rng(seed).normal(size=(60, 7)).astype(np.float32)
        np.savez(path, inputs=inputs, labels=labels)

    arguments = [*TINY, "--data=arrays", f"--data_path={path}", "--ways=3"]
    arguments += ["--shots=1", "--queries=1", f"--workdir={tmp_path / 'run'}"]
    write(seed=0)
    assert stopped("_advance", signal.SIGTERM, 2, *arguments)[0] == 143
    write(seed=1)
    code, _, errors = run(*arguments)
    assert code == engine.BAD_CONFIGURATION and errors.count("\n") == 1
    assert "digest of the training data was" in errors
    write(seed=0)
    assert run(*arguments)[0] == 0


def test_what_would_change_the_result_cannot_be_changed_half_way(run, begun, tmp_path):
    schedule = ["--outer_schedule=linear", f"--workdir={tmp_path / 'run'}"]
    begun(*TINY, *schedule)
    code, _, errors = run(*TINY, *schedule, "--num_steps=8")
    assert code == 2 and "--num_steps=4 --num_steps=8" in errors
    imaml = ["--learner=imaml", f"--workdir={tmp_path / 'other'}"]
    begun(*TINY, "--adjoint=implicit", *imaml)
    code, _, errors = run(*TINY, "--adjoint=unroll", *imaml)
    assert code == 2 and "--adjoint=implicit --adjoint=unroll" in errors


@pytest.mark.parametrize("eval_every_steps", [1, 4])
def test_training_that_becomes_non_finite_stops_at_the_step(
    run, tmp_path, eval_every_steps
):
    workdir = tmp_path / "run"
    arguments = [
        *TINY,
        "--outer_optimizer=sgd",
        "--outer_rate=1e15",
        "--max_skipped=0",
        f"--eval_every_steps={eval_every_steps}",
        f"--workdir={workdir}",
    ]
    code, _, errors = run(*arguments)
    assert code == engine.NON_FINITE and "--outer_rate" in errors
    step = int(errors.split("step ")[1].split()[0])
    assert 0 < step < 4 and f"for step {step} of --seed=0" in errors
    assert not (workdir / "result.json").exists()
    assert (workdir / "checkpoints" / f"{step}.npz").exists()
    # Started again, it stops at the same step, with the same last good state.
    assert run(*arguments)[2] == errors


def test_a_solver_that_diverges_stops_the_run_with_advice(run, tmp_path):
    flags = ["--learner=imaml", "--solver=neumann", "--inner_rate=10"]
    flags += ["--solver_iterations=20", "--inner_steps=0", "--max_skipped=0"]
    code, _, errors = run(*TINY, *flags, f"--workdir={tmp_path / 'run'}")
    assert code == engine.NON_FINITE and "--solver=gmres" in errors
