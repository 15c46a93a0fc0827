"""From remembering tasks to learning them, in small."""

import pytest

from experiments import transition


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--maps=1,many", "must be integers, such as 1,16,256"),
        ("--size=5", "must divide 28"),
        ("--heads=3", "--heads must divide --width"),
    ],
)
def test_bad_flags_are_refused(parse, flag, message):
    with pytest.raises(transition.flags.IllegalFlagValueError, match=message):
        parse(transition.FLAGS, ["transition", flag, "--workdir=unused"])
