"""Linear regression in context, in small, and what is best."""

import copy
import json

import numpy as np

from experiments import regression_in_context

TINY = [
    "--dims=2",
    "--length=6",
    "--noise=0",
    "--width=8",
    "--layers=1",
    "--heads=2",
    "--num_tasks=4",
    "--num_steps=3",
    "--num_test_tasks=200",
]


def parsed(*arguments):
    """The flags as after a start with these arguments, and no other start before."""
    config = copy.deepcopy(regression_in_context.FLAGS)
    config(["regression_in_context", *map(str, arguments)])
    return config


def test_errors_are_held_against_the_least_there_are(tmp_path, capsys):
    config = parsed(*TINY, f"--workdir={tmp_path / 'run'}")
    assert regression_in_context.run(config) == 0
    assert (tmp_path / "run" / "result.txt").read_text() == capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (found,) = result["fits"]
    # Without noise d - k after k examples, and nothing from d on; 200 tasks.
    np.testing.assert_allclose(found["ridge"][:2], [2, 1], atol=0.6)
    np.testing.assert_allclose(found["ridge"][2:], 0, atol=1e-4)
    for name, least in zip(("transformer", "ridge"), (0.5, 0)):
        assert len(found[name]) == 6 and min(found[name]) >= least
    assert (tmp_path / "run" / "result.png").stat().st_size > 5_000
    assert regression_in_context.run(config) == 2
    assert "holds a finished run" in capsys.readouterr().err
