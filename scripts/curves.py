"""Accuracy on validation tasks over training, of kept runs, as one picture.

    python scripts/curves.py --run=NAME,NAME --out=PNG

`scripts/reproduce.py --run=NAME` makes the results.
"""

from pathlib import Path
import sys

from absl import app, flags
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts import kept
from scripts.reproduce import RESULTS
from scripts.runs import RUNS

_OUT = flags.DEFINE_string("out", None, "Where the picture is written.", required=True)


def draw(names: list[str], path: Path) -> None:
    """Draws a line for each seed of each run."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for run in RUNS:
        for seed in run.seeds if run.name in names else ():
            curve = kept.read(RESULTS / f"{run.name}-{seed}.json").curve
            steps, shares = zip(*kept.points(curve, "validation/accuracy"))
            label = run.name if len(run.seeds) == 1 else f"{run.name}, seed {seed}"
            axes.plot(steps, 100 * np.array(shares), marker=".", label=label)
    axes.set(xlabel="outer step", ylabel="accuracy on validation tasks, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    names = flags.FLAGS.run
    if not names:
        sys.exit("There is nothing to draw: name runs by --run.")
    for run in RUNS:
        for seed in run.seeds if run.name in names else ():
            if not (RESULTS / f"{run.name}-{seed}.json").exists():
                sys.exit(
                    f"No result of {run.name} with seed {seed} was kept: make it by "
                    f"scripts/reproduce.py --run={run.name}."
                )
    draw(names, Path(_OUT.value))


if __name__ == "__main__":
    app.run(main)
