"""Learners on the same sinusoids: their kept results as one table and one picture.

    python scripts/side_by_side.py

`scripts/reproduce.py --run=NAME` makes the results.
"""

import itertools
from pathlib import Path
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts import kept
from scripts.reproduce import RESULTS
from scripts.runs import RUNS

SHOTS, STEPS = (5, 10, 20), (1, 5, 10)


def results() -> dict[str, dict[int, list[dict[int, dict]]]]:
    """By run and shots: for each seed, rows by the number of inner steps."""
    found = {}
    for run in RUNS:
        if not run.shots:
            continue
        paths = [RESULTS / f"{run.name}-{seed}.json" for seed in run.seeds]
        each = [kept.read(path).tests for path in paths if path.exists()]
        if each:
            found[run.name] = {
                shots: [_rows(tests[f"shots-{shots}"]) for tests in each]
                for shots in SHOTS
            }
    return found


def _rows(result: dict) -> dict[int, dict]:
    return {row["inner_steps"]: row for row in result["rows"]}


def table(found) -> str:
    """Squared errors after inner steps, by shots: means over tasks and seeds."""
    columns = [f"{shots} shots, {steps}" for shots in SHOTS for steps in STEPS]
    lines = [f"| preset | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, by_shots in found.items():
        cells = [
            _cell([seed[steps] for seed in by_shots[shots]])
            for shots in SHOTS
            for steps in STEPS
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: list[dict]) -> str:
    """The mean with its interval; where tasks diverged, the median and their share."""
    diverged = sum(row["diverged"] for row in rows)
    if diverged:
        median = np.mean([row["loss"]["median"] for row in rows])
        tasks = sum(row["loss"]["num_tasks"] for row in rows)
        return f"median {median:.2f}, {diverged / tasks:.1%} diverged"
    mean = np.mean([row["loss"]["mean"] for row in rows])
    interval = np.mean([row["loss"]["interval"] for row in rows])
    return f"{mean:.2f} +- {interval:.2f}"


def draw(found, path: Path) -> None:
    """Medians over tasks against inner steps, one panel a number of shots."""
    figure, axes = plt.subplots(1, len(SHOTS), figsize=(13, 4.2), sharey=True)
    styles = list(itertools.product((".-", ".--"), plt.cm.tab10(range(10))))
    for shots, axis in zip(SHOTS, axes):
        for (name, by_shots), (line, color) in zip(found.items(), styles):
            steps = [n for n in by_shots[shots][0] if n <= STEPS[-1]]
            each = [
                [seed[n]["loss"]["median"] for n in steps] for seed in by_shots[shots]
            ]
            label = name.removeprefix("sinusoid_").replace("sinusoid", "maml")
            axis.plot(steps, np.mean(each, 0), line, color=color, label=label)
        axis.set(xlabel="inner steps", title=f"{shots} shots", yscale="log")
        axis.set_xticks(steps)
    axes[0].set_ylabel("squared error\n(median of 600 tasks, mean of seeds)")
    axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    found = results()
    if not found:
        sys.exit(
            "No results are kept yet: run scripts/reproduce.py --run=sinusoid first."
        )
    print(table(found))
    draw(found, RESULTS / "sinusoids.png")


if __name__ == "__main__":
    main()
