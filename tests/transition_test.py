"""From remembering tasks to learning them, in small."""

import copy
import json

import pytest

from experiments import transition

TINY = [
    "--maps=2,1",
    "--length=6",
    "--size=2",
    "--width=8",
    "--layers=1",
    "--heads=2",
    "--num_tasks=4",
    "--num_steps=3",
    "--num_test_tasks=4",
]


def parsed(*arguments):
    """The flags as after a start with these arguments, and no other start before."""
    config = copy.deepcopy(transition.FLAGS)
    config(["transition", *map(str, arguments)])
    return config


def test_numbers_of_maps_are_done_once_and_reported_in_order(
    data_dir, tmp_path, capsys, monkeypatch
):
    flags = [*TINY, f"--data_dir={data_dir}", f"--workdir={tmp_path / 'run'}"]
    assert transition.run(parsed(*flags)) == 0
    text = (tmp_path / "run" / "result.txt").read_text()
    assert text == capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["1", "2"]
    one = json.loads((tmp_path / "run" / "maps-1.json").read_text())
    assert len(one["unseen"]["curve"]) == 6 and str(tmp_path) not in json.dumps(one)
    assert one["seen"]["tasks_hash"] != one["unseen"]["tasks_hash"]
    assert (tmp_path / "run" / "result.png").stat().st_size > 5_000
    with monkeypatch.context() as patch:
        patch.delattr(transition, "train")  # What is known is not found again.
        assert transition.run(parsed(*flags)) == 0
    assert capsys.readouterr().out == text
    assert transition.run(parsed(*flags, "--num_steps=4")) == 2
    assert "maps-1.json was made with other flags" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--maps=1,many", "must be integers, such as 1,64,4096"),
        ("--size=5", "must divide 28"),
        ("--heads=3", "--heads must divide --width"),
    ],
)
def test_bad_flags_are_refused(flag, message):
    with pytest.raises(transition.flags.IllegalFlagValueError, match=message):
        parsed(flag, "--workdir=unused")
