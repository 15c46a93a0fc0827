"""The directory of a run: whose it is, what is in it, and when it is finished."""

import contextlib
import errno
import json
import os

import numpy as np
import pytest

from experiments.running import locks, workdirs
from metajax import checkpoints, files

SETTINGS = workdirs.Settings({"seed": "--seed=0", "rate": "--rate=0.1"})


@pytest.fixture
def held():
    with contextlib.ExitStack() as stack:
        yield stack


def begin(workdir, held, settings=SETTINGS):
    lock = workdirs.check(settings, workdir, held)
    return workdirs.claim(settings, workdir, held, lock)


def lines(workdir):
    return workdirs.recorded(workdir)


@pytest.mark.parametrize(
    "left", [[], ["lock"], ["run.flags.unfinished"], ["lock", "run.flags.unfinished"]]
)
def test_a_start_that_was_cut_off_is_begun_again(tmp_path, held, left):
    for name in left:
        (tmp_path / name).write_text("")
    begin(tmp_path, held)
    assert lines(tmp_path) == ["--seed=0", "--rate=0.1"]
    assert sorted(os.listdir(tmp_path)) == ["lock", "run.flags"]


def test_files_of_others_are_not_taken_for_left_overs(tmp_path, held):
    (tmp_path / "lock").write_text("mine")
    (tmp_path / "thesis.unfinished").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        begin(tmp_path, held)
    held.close()
    assert (tmp_path / "lock").read_text() == "mine"


def test_of_two_first_starts_the_later_is_told_who_is_at_it(tmp_path, held):
    """Though the first has not written its settings yet."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    locks.Lock(workdir, held)
    (workdir / "run.flags.unfinished").write_text("--see")
    with contextlib.ExitStack() as other:
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
            workdirs.check(SETTINGS, workdir, other)


def test_a_resume_writes_no_settings_that_are_right(tmp_path, held, monkeypatch):
    begin(tmp_path, held)
    held.close()
    (tmp_path / "best.npz.unfinished").write_text("half")

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "write_text", full)
    begin(tmp_path, held)
    assert sorted(os.listdir(tmp_path)) == ["lock", "run.flags"]
    held.close()
    others = SETTINGS._replace(
        lines=SETTINGS.lines | {"rate": "--rate=1"}, free=frozenset({"rate"})
    )
    with pytest.raises(locks.Unwritable) as error:
        begin(tmp_path, held, others)
    assert error.value.errno == errno.ENOSPC and "run.flags" in error.value.filename
    assert lines(tmp_path) == ["--seed=0", "--rate=0.1"]


@pytest.mark.parametrize("change", ["moved", "removed", "unlocked", "taken over"])
def test_a_directory_that_is_no_longer_the_run_s_own_is_noticed(tmp_path, held, change):
    workdir = tmp_path / "run"
    lock = begin(workdir, held)
    lock.make_sure()
    if change in ("moved", "taken over"):
        workdir.rename(tmp_path / "away")
    elif change == "removed":
        for path in workdir.iterdir():
            path.unlink()
        workdir.rmdir()
    else:
        (workdir / "lock").unlink()
    if change == "taken over":
        begin(workdir, held)
    with pytest.raises(locks.Lost, match="was moved or removed, or lock in it was"):
        lock.make_sure()
    if change == "moved":
        (tmp_path / "away").rename(workdir)
        lock.make_sure()


def finished(workdir, seeds=()):
    """A directory with the results of a run, of several seeds if there are some."""
    each = [workdir / f"seed_{seed}" for seed in seeds] or [workdir]
    for directory in each:
        directory.mkdir(parents=True, exist_ok=True)
        np.savez(directory / "best.npz", x=np.arange(3))
        np.savez(directory / "result.npz", loss=np.arange(4))
        (directory / "curves.png").write_bytes(b"PNG")
        (directory / "result.json").write_text("{}")
        (directory / "result.txt").write_text("table")
    (workdir / "result.txt").write_text("table")
    found = {"seeds": [*seeds]} if seeds else {"seed": 0}
    (workdir / "result.json").write_text(json.dumps(found))


@pytest.mark.parametrize("seeds", [(), (3, 4)])
def test_a_run_without_some_of_its_results_is_finished_again(tmp_path, seeds):
    finished(tmp_path, seeds)
    checkpoints.save(tmp_path / "checkpoints", 1, {"x": np.arange(3)})
    assert workdirs.is_finished(tmp_path)
    own = tmp_path / f"seed_{seeds[-1]}" if seeds else tmp_path
    for path in (own / "best.npz", own / "result.npz"):
        whole = path.read_bytes()
        for half in (
            b"",
            whole[:-30],
            b"\0" * len(whole),
            whole.replace(b"x", b"y", 1),
        ):
            if half != whole:
                path.write_bytes(half)
                assert not workdirs.is_finished(tmp_path), (path, half)
        path.write_bytes(whole)
    for path in (own / "curves.png", tmp_path / "result.txt", tmp_path / "result.json"):
        whole = path.read_bytes()
        path.write_bytes(b"")
        assert not workdirs.is_finished(tmp_path), path
        path.write_bytes(whole)
    (own / "result.npz").unlink()
    assert not workdirs.is_finished(tmp_path)
    # There is nothing to finish it from, and it must not be trained anew.
    for _, path in checkpoints.find(tmp_path / "checkpoints"):
        path.unlink()
    assert workdirs.is_finished(tmp_path)


def test_other_data_is_another_fingerprint():
    own = workdirs.fingerprint(SETTINGS, {"training": "1f"})
    assert own == {"seed": "0", "rate": "0.1", "digest of the training data": "1f"}
    assert workdirs.fingerprint(SETTINGS, {}) == {"seed": "0", "rate": "0.1"}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, None),
        ({"commit": "b0b"}, "the commit was a1a, is b0b."),
        ({"versions": {"jax": "2", "new": "1"}}, "jax was 1, is 2."),
        ({"device": "1 gpu"}, "the device was 1 cpu, is 1 gpu."),
        ({"commit": None}, None),
    ],
)
def test_other_code_at_a_resume_is_said(tmp_path, caplog, changes, said):
    record = {"commit": "a1a", "device": "1 cpu", "versions": {"jax": "1", "old": "1"}}
    starts = [json.dumps(each) for each in ({}, record, record | changes)]
    (tmp_path / "starts.jsonl").write_text("\n".join(starts) + "\n")
    workdirs.warn_of_other_code(tmp_path)
    texts = [record.getMessage() for record in caplog.records]
    expected = f"{tmp_path} goes on, but not to the same bits: {said}"
    assert texts == [expected] * bool(said)


@pytest.mark.parametrize("held_before", [b"", b"\0\0\xff", b'{"commit": 5', b"[]\n"])
def test_a_damaged_record_of_starts_holds_nobody_up(tmp_path, caplog, held_before):
    (tmp_path / "starts.jsonl").write_bytes(held_before)
    workdirs.write_record(tmp_path, "1 cpu")
    workdirs.warn_of_other_code(tmp_path)
    last = (tmp_path / "starts.jsonl").read_text(errors="replace").splitlines()[-1]
    assert json.loads(last)["device"] == "1 cpu" and not caplog.text
    workdirs.write_record(tmp_path, "1 gpu")
    workdirs.warn_of_other_code(tmp_path)
    assert "the device was 1 cpu, is 1 gpu." in caplog.text
