"""What is measured: metrics at places along one named axis, a value for each task."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
import hashlib
from typing import NamedTuple

from absl import logging
import jax
import numpy as np

import metajax as mj
from metajax.base import MetaParams, Objective, Sampler

# The tasks of every run with the same data and sizes: to choose by, and to be judged on.
VALIDATION, TEST = 1_000_001, 1_000_002

Report = Callable[[int], object]  # Told of so many more tasks that are measured.


class Metric(NamedTuple):
    """The metric that counts."""

    name: str
    larger_is_better: bool = False
    is_share: bool = False  # Of 1, which tables have in percent.


class Measurement(NamedTuple):
    """Metrics of many tasks along one axis."""

    axis: str  # What the places are numbers of, such as "steps".
    places: tuple[int, ...]
    values: dict[str, np.ndarray]  # [tasks, places] each
    tasks_hash: str  # Equal for the same tasks only.
    more: Mapping[str, np.ndarray] = {}  # What is no number of a task and a place.

    def at(self, name: str, place: int) -> np.ndarray:
        """The values of one metric at one place, `[tasks]`."""
        return self.values[name][:, self.places.index(place)]


class Measure(NamedTuple):
    """How meta-parameters are measured."""

    measure: Callable[[MetaParams, Report], Measurement]
    total: int  # What it reports, all added up.

    def __call__(
        self, meta: MetaParams, report: Report = lambda more: None
    ) -> Measurement:
        return self.measure(meta, report)


def on_tasks(
    sampler: Sampler,
    objectives: Mapping[tuple[int, ...], Objective],
    *,
    axis: str,
    seed: int,
    num_tasks: int,
    tasks_per_chunk: int = 100,
) -> Measure:
    """Measures the metrics of objectives on tasks that a seed fixes.

    Args:
      sampler: draws one task from a key.
      objectives: by the places along the axis that it tells of. Its metrics have a
        number for each, `[places]`, or are scalars if there is one; those of several
        numbers, `[places, numbers]`, come in `more`.
      axis: what the places are numbers of.
      seed: fixes the tasks, such as `VALIDATION` or `TEST`.
      num_tasks: how many tasks.
      tasks_per_chunk: how many are held at a time.

    Returns:
      The measure.

    Example:
      >>> on_tasks(  # doctest: +SKIP
      ...     tasks, {(0,): before, (5,): after}, axis="steps", seed=TEST, num_tasks=600
      ... )
    """

    def measure(meta: MetaParams, report: Report) -> Measurement:
        columns, hashes = {}, set()
        for places, objective in objectives.items():
            if seed == TEST:
                where = ", ".join(map(str, places if len(places) < 5 else places[-1:]))
                logging.info("testing on %d tasks, %s %s", num_tasks, where, axis)
            found = mj.evaluate(
                objective,
                meta,
                sampler,
                key=jax.random.key(seed),
                num_tasks=num_tasks,
                tasks_per_chunk=tasks_per_chunk,
                report=report,
            )
            hashes.add(found.tasks_hash)
            for name, values in found.values.items():
                column = values.reshape(num_tasks, len(places), -1)
                columns.setdefault(name, []).append(column)
        each = {name: np.concatenate(c, axis=1) for name, c in columns.items()}
        values = {k: x[..., 0] for k, x in each.items() if x.shape[-1] == 1}
        more = {k: x for k, x in each.items() if x.shape[-1] > 1}
        places = tuple(place for each in objectives for place in each)
        (tasks_hash,) = hashes
        return Measurement(axis, places, values, tasks_hash, more)

    return Measure(measure, num_tasks * len(objectives))


def side_by_side(measures: Mapping[str, Measure]) -> Measure:
    """Several measures as one, with metrics named `name_metric`: `seen_accuracy`.

    Args:
      measures: by name; they have the same axis, places and number of tasks.
    """

    def measure(meta: MetaParams, report: Report) -> Measurement:
        each = {name: one(meta, report) for name, one in measures.items()}
        first = next(iter(each.values()))
        values = {
            f"{name}_{metric}": column
            for name, found in each.items()
            for metric, column in found.values.items()
        }
        hashes = "".join(found.tasks_hash for found in each.values())
        tasks_hash = hashlib.blake2b(hashes.encode(), digest_size=8).hexdigest()
        return Measurement(first.axis, first.places, values, tasks_hash)

    return Measure(measure, sum(one.total for one in measures.values()))


def score(measurement: Measurement, metric: Metric) -> float:
    """The mean of a metric over tasks and places; the larger, the better."""
    mean = float(np.mean(measurement.values[metric.name], dtype=np.float64))
    return np.nan_to_num(mean if metric.larger_is_better else -mean, nan=-np.inf)


def rows(measurement: Measurement) -> list[dict]:
    """Summaries over tasks, one row a place: `{axis: place, metric: summary}`."""
    key = measurement.axis.replace(" ", "_")
    return [
        {key: place}
        | {
            name: mj.summarize(values[:, i])._asdict()
            for name, values in measurement.values.items()
        }
        for i, place in enumerate(measurement.places)
    ]


def table(
    summary: dict,
    metric: Metric,
    numbers: Mapping[str, str] = {},
    shown: Sequence[int] | None = None,
) -> str:
    """A result as text: one row a place.

    Args:
      summary: a result, as it is written to JSON.
      metric: the one that comes first.
      numbers: what else of a row is shown, by name, each in a format.
      shown: the places that are; all if None.
    """
    key, first = summary["axis"].replace(" ", "_"), summary["rows"][0]
    names = [name for name, value in first.items() if isinstance(value, dict)]
    names.sort(key=lambda name: name != metric.name)
    shares = {metric.name} if metric.is_share else set()
    titles = {name: f"{_spaced(name)} (95%)" for name in names}
    # As wide as a number with its interval, and as far from the column before.
    widths = {name: max(len(title) + 2, 18) for name, title in titles.items()}
    heads = [
        f"{title:>{widths[name]}s}" + "    median" * (name not in shares)
        for name, title in titles.items()
    ]
    width = max(len(summary["axis"]), 5)
    lines = [
        f"{summary['num_tasks']} unseen tasks ({summary['tasks_hash']}), parameters of "
        f"step {summary['best_step']} of {summary['steps']}",
        f"{summary['axis']:>{width}s}"
        + "".join([*heads, *(f"  {_spaced(name)}" for name in numbers)]),
    ]
    for row in summary["rows"]:
        if shown is not None and row[key] not in shown:
            continue
        cells = [_cell(row[name], name in shares, widths[name]) for name in names]
        cells += [f"{row[k]:{len(k) + 2}{form}}" for k, form in numbers.items()]
        lines.append(f"{row[key]:{width}d}" + "".join(cells))
    return "\n".join(lines)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _cell(summary: dict, is_share: bool, width: int) -> str:
    mean, interval, median = list(summary.values())[:3]
    if is_share:
        return f"{100 * mean:.2f} +- {100 * interval:.2f}%".rjust(width)
    found = f"{short(mean)} +- {short(interval):5s}".rjust(width)
    return f"{found}{short(median):>10s}"


def short(value: float) -> str:
    """A number in few characters."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.1e}"


def over_seeds(summaries: list[dict], metric: Metric) -> tuple[dict, str]:
    """How much the means over tasks differ from seed to seed: as JSON and as text."""
    axis, seeds = summaries[0]["axis"], [summary["seed"] for summary in summaries]
    key, width = axis.replace(" ", "_"), max(len(axis), 5)
    show = partial(_shown, is_share=metric.is_share)
    lines = [
        f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}: {metric.name} over tasks, by "
        "seed",
        f"{axis:>{width}s}      mean       std    lowest   highest",
    ]
    rows = []
    for each in zip(*[summary["rows"] for summary in summaries]):
        means = np.array([row[metric.name]["mean"] for row in each])
        with np.errstate(invalid="ignore"):  # inf - inf, where a task diverges.
            found = np.mean(means), np.std(means, ddof=1), np.min(means), np.max(means)
        found = dict(zip(("mean", "std", "lowest", "highest"), map(float, found)))
        rows.append({key: each[0][key], metric.name: found})
        lines.append(f"{each[0][key]:{width}d}" + "".join(map(show, found.values())))
    same = ("axis", "num_tasks", "tasks_hash", "steps", "train_seconds", "changed")
    shared = {name: summaries[0][name] for name in same if name in summaries[0]}
    return {"seeds": seeds, **shared, "rows": rows}, "\n".join(lines)


def _shown(value: float, is_share: bool) -> str:
    return f"{100 * value:9.2f}%" if is_share else f"{short(value):>10s}"
