import os
from pathlib import Path
import subprocess
import sys

import pytest

from metajax import files
from scripts import shim
from scripts.disk import LOSSES, Disk, Journal

ROOT = Path(__file__).parents[1]


def write_two(root):
    files.make_directories(root / "new" / "own")
    for text in ("old", "new" * 10):
        files.write_text(root / "new" / "own" / "x", text)


# Starts quickly, and ends quickly: a fork for each operation, killed at it.
KILLED = """
import os, sys
from pathlib import Path
from scripts import shim
from tests.files_test import write_two
for number in range(int(sys.argv[2])):
    for when in ("before", "within", "after"):
        root = Path(sys.argv[1]) / f"{number}-{when}"
        root.mkdir()
        if not (child := os.fork()):
            with shim.watched(root, shim.kill_at(number, when)):
                write_two(root)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
"""


def test_a_real_kill_leaves_what_its_replay_says(tmp_path):
    """At each operation, before, within and after it: else replays show nothing."""
    journal = Journal()
    (tmp_path / "alone").mkdir()
    with shim.watched(tmp_path / "alone", journal):
        write_two(tmp_path / "alone")
    counted = [i for i, one in enumerate(journal) if one.kind not in shim.READS]
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(len(counted))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for number, index in enumerate(counted):
        for when in ("before", "within", "after"):
            disk = Disk.after(journal[: index + (when == "after")])
            if when == "within" and journal[index].kind == "write":
                data = journal[index].data
                disk.do(journal[index]._replace(data=data[: len(data) // 2]))
            root = tmp_path / f"{number}-{when}"
            found = {
                str(path.relative_to(root)): None
                if path.is_dir()
                else path.read_bytes()
                for path in root.rglob("*")
            }
            assert found == disk.files(), (number, when)


def test_a_loss_of_power_leaves_the_old_file_or_the_new_one(tmp_path):
    """At each operation, of whatever is not synced by then."""
    journal = Journal()
    with shim.watched(tmp_path, journal):
        write_two(tmp_path)
    first = next(i for i, operation in enumerate(journal) if operation.target)
    for number in range(len(journal)):
        disk = Disk.after(journal[: number + 1])
        found = {disk.files(loss).get("new/own/x") for loss in LOSSES}
        is_there = number >= first + 2  # Its directory is opened and synced then.
        assert found <= ({b"old", b"new" * 10} if is_there else {None, b"old"}), number
    assert found == {b"new" * 10}


def test_what_fails_leaves_the_old_file_and_no_half_one(tmp_path):
    path = tmp_path / "x"
    files.write_text(path, "old")
    with pytest.raises(ValueError, match="half-way"):
        with files.whole(path) as file:
            file.write(b"new")
            raise ValueError("half-way")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]
