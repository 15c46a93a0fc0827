import os

import pytest

from metajax import files
from scripts import shim
from scripts.disk import LOSSES, Disk, Journal


def test_a_loss_of_power_leaves_the_old_file_or_the_new_one(tmp_path):
    """At each operation, of whatever is not synced by then."""
    journal = Journal()
    with shim.watched(tmp_path, journal):
        files.make_directories(tmp_path / "new" / "own")
        for text in ("old", "new"):
            files.write_text(tmp_path / "new" / "own" / "x", text)
    first = next(i for i, operation in enumerate(journal) if operation.target)
    for number in range(len(journal)):
        disk = Disk.after(journal[: number + 1])
        found = {disk.files(loss).get("new/own/x") for loss in LOSSES}
        is_there = number >= first + 2  # Its directory is opened and synced then.
        assert found <= ({b"old", b"new"} if is_there else {None, b"old"}), number
    assert found == {b"new"}


def test_what_fails_leaves_the_old_file_and_no_half_one(tmp_path):
    path = tmp_path / "x"
    files.write_text(path, "old")
    with pytest.raises(ValueError, match="half-way"):
        with files.whole(path) as file:
            file.write(b"new")
            raise ValueError("half-way")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]
