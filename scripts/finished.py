"""Finished runs as they are compared, in numbers and in words: task by task."""

from collections.abc import Sequence
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import compare
from experiments.running import Metric, measuring, workdirs
import metajax as mj


class Run(NamedTuple):
    """A finished run, of one seed or several.

    Attributes:
      name: on the page.
      directories: of its seeds.
      results: `result.json` of each.
      tested: by metric and place the value of each task, `[tasks]`, means over seeds.
      metric: the one that counts.
      pictures: what it drew; of several seeds, those of the first.
      settings: its flags.
      starts: what it was started with.
    """

    name: str
    directories: list[Path]
    results: list[dict]
    tested: mj.Evaluation
    metric: Metric
    pictures: list[Path]
    settings: list[str]
    starts: list[dict]

    @property
    def places(self) -> list[int]:
        axis = self.results[0]["axis"].replace(" ", "_")
        return [row[axis] for row in self.results[0]["rows"]]

    @property
    def names(self) -> list[str]:
        """Of the metrics, the one that counts first."""
        row = self.results[0]["rows"][0]
        names = [name for name, value in row.items() if isinstance(value, dict)]
        return sorted(names, key=lambda name: name != self.metric.name)

    @property
    def place(self) -> int:
        """The last by which parameters were chosen, where settings say; else the last.

        Elsewhere learners that adapt in one step may well diverge.
        """
        for line in self.settings:
            name, _, chosen = line.partition("=")
            if (
                name == "--select_inner_steps"
                and int(chosen.split(",")[-1]) in self.places
            ):
                return int(chosen.split(",")[-1])
        return self.places[-1]

    def at(self, name: str, place: int | None = None) -> np.ndarray:
        """Values of the tasks at a place, else at the one that counts, `[tasks]`."""
        return self.tested.values[f"{name}_{self.place if place is None else place}"]

    def each(self, name: str, place: int) -> list[float]:
        """Of each seed the mean over tasks, or the number that is there instead."""
        rows = [result["rows"][self.places.index(place)] for result in self.results]
        found = [row.get(name) for row in rows]
        found = [x["mean"] if isinstance(x, dict) else x for x in found]
        return [np.nan if x is None else x for x in found]


def read(workdir: Path, name: str) -> Run:
    """Reads a finished run.

    Raises:
      ValueError: if there is none.
    """
    if not workdirs.is_finished(workdir):
        raise ValueError(
            f"{workdir} holds no finished run: name the --workdir of one, or finish it by "
            "its command."
        )
    result = json.loads((workdir / "result.json").read_text())
    directories = [workdir / f"seed_{seed}" for seed in result.get("seeds", ())]
    directories = directories or [workdir]
    results = [json.loads((path / "result.json").read_text()) for path in directories]
    if "axis" not in results[0]:
        raise ValueError(f"{workdir} is of an older version: report by that version.")
    each = compare.load(workdir)
    values = {
        name: np.mean([one.values[name] for one in each], axis=0)
        for name in each[0].values
    }
    drawn = [
        path
        for place in dict.fromkeys([directories[0], workdir])
        for pattern in ("*.png", "*.gif")
        for path in sorted(place.glob(pattern))
    ]
    starts = (workdir / "starts.jsonl").read_text().splitlines()
    return Run(
        name=name,
        directories=directories,
        results=results,
        tested=mj.Evaluation(values, each[0].tasks_hash),
        metric=_metric(results[0]),
        pictures=drawn,
        settings=workdirs.recorded(workdir),
        starts=[json.loads(start) for start in starts],
    )


def _metric(result: dict) -> Metric:
    """The metric that counts; older results do not say which."""
    if "metric" in result:
        return Metric(**result["metric"])
    row = result["rows"][0]
    if "accuracy" in row:
        return Metric("accuracy", larger_is_better=True, is_share=True)
    for name in ("total", "return"):
        if name in row:
            return Metric(name, larger_is_better=True)
    return Metric("loss")


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that were tested on the same tasks by the same metric, the best first."""
    groups = {}
    for run in runs:
        groups.setdefault((run.tested.tasks_hash, run.metric), []).append(run)
    return [sorted(group, key=_badness) for group in groups.values()]


def _badness(run: Run) -> float:
    mean = float(np.mean(run.at(run.metric.name)))
    worst = -mean if run.metric.larger_is_better else mean
    return worst if np.isfinite(worst) else np.inf


def difference(a: Run, b: Run, name: str) -> tuple[float, float]:
    """`mj.paired_difference` of two runs, each at the place that counts."""
    each = [run.tested._replace(values={name: run.at(name)}) for run in (a, b)]
    with np.errstate(invalid="ignore"):  # inf - inf, where both diverge.
        return mj.paired_difference(*each, name)


def settings_that_differ(runs: Sequence[Run]) -> dict[str, list[str]]:
    """By name their values in each run, "-" where it has not recorded one."""

    def value(run: Run, name: str) -> str:
        for line in run.settings:
            if line.startswith(f"--{name}="):
                return line.partition("=")[2]
            if line in (f"--{name}", f"--no{name}"):
                return "yes" if line == f"--{name}" else "no"
        return "-"

    lines = [line for run in runs for line in run.settings]
    names = sorted({line.removeprefix("--").partition("=")[0] for line in lines})
    found = {name: [value(run, name) for run in runs] for name in names}
    return {
        name: values
        for name, values in found.items()
        if len(set(values)) > 1 and not (name[:2] == "no" and name[2:] in found)
    }


def question(runs: Sequence[Run]) -> str:
    """What the page answers."""
    first, *others = dict.fromkeys(run.metric for run in runs)
    if len(runs) == 1:
        return f"Which {first.name} does {runs[0].name} reach on unseen tasks?"
    if others:
        return f"What do {len(runs)} runs reach on unseen tasks?"
    best = "highest" if first.larger_is_better else "lowest"
    return f"Which of {len(runs)} runs has the {best} {first.name} on unseen tasks?"


def verdicts(runs: Sequence[Run]) -> list[str]:
    """The answer in words, a sentence or two for each set of tasks."""
    groups, lines = comparable(runs), []
    if len(groups) > 1:
        told = "; ".join(
            f"{', '.join(run.name for run in group)} on {group[0].tested.tasks_hash}"
            for group in groups
        )
        lines.append(
            f"Not all were tested on the same tasks by the same metric ({told}): between "
            "those that were not there is no paired difference, and no verdict."
        )
    for best, *others in groups:
        metric, found = best.metric, mj.summarize(best.at(best.metric.name))
        axis = best.results[0]["axis"]
        if found.num_nonfinite:  # Nor is that of any other, which would come first.
            names = ", ".join(run.name for run in (best, *others))
            lines.append(f"Of {names} no mean can be told: some tasks diverged.")
            continue
        lines.append(
            f"{best.name} has {'the best' if others else 'a'} mean {metric.name} of "
            f"{with_interval(metric, metric.name, found.mean, found.interval)} after "
            f"{best.place} {axis}, over {found.num_tasks} tasks."
        )
        lines += [_ahead(best, other) for other in others]
        if not others and best.place != best.places[0]:
            lines.append(_along(best))
    return lines


def _ahead(best: Run, other: Run) -> str:
    name = best.metric.name
    mean, interval = difference(best, other, name)
    of = other.name
    if other.place != best.place:
        of += f" (after {other.place})"
    if not np.isfinite(mean):
        return f"From {of} no difference can be told: some of its tasks diverged."
    told = with_interval(best.metric, name, abs(mean), interval)
    if abs(mean) > interval:
        return f"It is ahead of {of} by {told}, task by task: the interval excludes 0."
    return f"It is not told apart from {of}: {told}, an interval with 0 in it."


def _along(run: Run) -> str:
    """What comes of adaptation, from the first place to the one that counts."""
    name, first, last = run.metric.name, run.places[0], run.place
    name = "return" if name == "total" else name  # Totals grow in any case.
    found = mj.summarize(run.at(name) - run.at(name, first))
    if found.num_nonfinite:
        return "What adaptation changes cannot be told: some tasks diverged."
    told = with_interval(run.metric, name, found.mean, found.interval)
    verdict = "excludes" if abs(found.mean) > found.interval else "includes"
    return (
        f"From {first} to {last} {run.results[0]['axis']} {name} changes by {told}, task "
        f"by task: the interval {verdict} 0."
    )


def with_interval(metric: Metric, name: str, mean: float, interval: float) -> str:
    """A mean of a metric, with half the width of its interval."""
    if not np.isfinite(mean):
        return "not finite"
    if metric.is_share and name == metric.name:
        return f"{100 * mean:.2f} ± {100 * interval:.2f}%"
    return f"{measuring.short(mean)} ± {measuring.short(interval)}"
