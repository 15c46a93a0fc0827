"""Linear regression in context, in small, and what is best."""

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
    "--num_validation_tasks=2",
    "--num_test_tasks=200",
]


def test_errors_are_held_against_the_least_there_are(parse, tmp_path, capsys):
    parse(regression_in_context.FLAGS, ["run", *TINY, f"--workdir={tmp_path}"])
    assert regression_in_context.run() == 0
    assert (tmp_path / "result.txt").read_text() in capsys.readouterr().out
    found = regression_in_context.read(tmp_path / "dim-2")
    # Without noise d - k after k examples, and nothing from d on; 200 tasks.
    np.testing.assert_allclose(found["ridge"][:2], [2, 1], atol=0.6)
    np.testing.assert_allclose(found["ridge"][2:], 0, atol=1e-4)
    for name, least in zip(("transformer", "ridge"), (0.5, 0)):
        assert len(found[name]) == 6 and min(found[name]) >= least
    assert (tmp_path / "result.png").stat().st_size > 5_000
