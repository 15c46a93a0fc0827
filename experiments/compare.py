"""Compares two runs task by task, which cancels how hard each task is.

python -m experiments.compare DIR_A DIR_B

Instead of a directory, a file of another evaluation may be named: DIR/eval-1234abcd.npz.
"""

from pathlib import Path
import sys

from absl import app


def main(argv: list[str]) -> None:
    if len(argv) != 3:
        sys.exit("Name the directories of two finished runs.")
    sys.exit(compare(*map(Path, argv[1:])))


def compare(a: Path, b: Path) -> int:
    """Prints the paired differences of two runs, and returns the exit code."""
    import metajax as mj  # After the arguments, so that a wrong one is told at once.

    try:
        results = [load(workdir) for workdir in (a, b)]
        names = [name for name in results[0].values if name in results[1].values]
        print(f"{a} minus {b}, {len(results[0].values[names[0]])} tasks, 95% interval")
        for name in names:
            difference, interval = mj.paired_difference(*results, name)
            verdict = "differ" if abs(difference) > interval else "do not differ"
            print(f"{name:>14s} {difference:+9.4f} +- {interval:.4f}  {verdict}")
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def load(workdir: Path):
    """The values that a finished run has written, by metric and inner steps."""
    import numpy as np

    import metajax as mj

    path = workdir / "result.npz" if workdir.is_dir() else workdir
    with np.load(path) as file:
        values = {name: file[name] for name in file if name != "tasks_hash"}
        return mj.Evaluation(values, str(file["tasks_hash"]))


if __name__ == "__main__":
    app.run(main)
