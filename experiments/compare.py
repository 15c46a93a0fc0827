"""Compares two runs task by task, which cancels how hard each task is.

python -m experiments.compare DIR_A DIR_B

Instead of a directory, a file of another evaluation may be named: DIR/eval-1234abcd.npz.
Runs of several seeds are compared seed by seed, and the interval is over seeds.
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
    try:
        runs = [load(workdir) for workdir in (a, b)]
        names = [*runs[0][0].values]
        names = [name for name in names if name in runs[1][0].values]
        print(f"{a} minus {b}, {_counted(runs[0], names[0])}, 95% interval")
        for name in names:
            found, interval = difference(*runs, name)
            verdict = "differ" if abs(found) > interval else "do not differ"
            print(f"{name:>14s} {found:+9.4f} +- {interval:.4f}  {verdict}")
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def load(workdir: Path) -> list:
    """What a finished run has written: the values by metric and place, of each seed."""
    import numpy as np  # After the arguments, so that a wrong one is told at once.

    import metajax as mj

    def read(path: Path):
        with np.load(path) as file:
            values = {name: file[name] for name in file if name != "tasks_hash"}
            return mj.Evaluation(values, str(file["tasks_hash"]))

    if not workdir.is_dir():
        return [read(workdir)]
    seeds = sorted(workdir.glob("seed_*"), key=lambda path: int(path.name[5:]))
    return [read(path / "result.npz") for path in seeds or [workdir]]


def difference(first: list, second: list, name: str) -> tuple[float, float]:
    """The mean paired difference of one metric of two runs, with its interval.

    It is over tasks, or over seeds where there are several: tasks do not tell how much
    training varies.

    Args:
      first: of each seed, as `load` reads it.
      second: likewise.
      name: the metric with its place, such as "loss_5".

    Raises:
      ValueError: if they have other numbers of seeds, or were tested on other tasks.
    """
    import numpy as np

    import metajax as mj

    if len(first) != len(second):
        raise ValueError(
            f"One run has {len(first)} seeds and the other {len(second)}: compare as many."
        )
    pairs = [mj.paired_difference(a, b, name) for a, b in zip(first, second)]
    if len(pairs) == 1:
        return pairs[0]
    return mj.mean_and_interval(np.array([found for found, _ in pairs]))


def _counted(seeds: list, name: str) -> str:
    tasks = f"{len(seeds[0].values[name])} tasks"
    return tasks if len(seeds) == 1 else f"{len(seeds)} seeds of {tasks}"


if __name__ == "__main__":
    app.run(main)
