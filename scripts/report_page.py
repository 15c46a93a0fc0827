"""The page of a report: HTML that has its style and its pictures in it."""

import base64
from collections.abc import Iterable, Sequence
import html
import io
import itertools
from pathlib import Path
import shlex

import numpy as np

from experiments.running import measuring
import metajax as mj
from metajax import logs
from scripts.finished import (
    Run,
    comparable,
    difference,
    question,
    settings_that_differ,
    verdicts,
    with_interval,
)
from scripts.kept import evenly

_CALIBRATION = {
    "calibration_error": "expected calibration error",
    "brier": "Brier score",
    "temperature": "temperature, of validation tasks",
}
# What pictures show, in the order of the page; others have their names.
_CAPTIONS = {
    "predictions": "Adaptation: before and after, on tasks of the test",
    "task": "One task of the test: who is taken for whom",
    "result": "Metrics on unseen tasks, along what adapts",
    "returns": "What episodes return, beside what is exact",
    "trials": "Trials on unseen tasks",
    "trial": "A trial on an unseen task",
    "rates": "Learned inner rates",
    "curves": "Training (grey) and validation against the outer step",
    "tasks": "Tasks of training",
}
_MOST_ROWS = 8  # Of a run in the table.


def page(runs: Sequence[Run]) -> str:
    """The report as HTML."""
    names = ", ".join(run.name for run in runs)
    style = Path(__file__).with_suffix(".css").read_text()
    verdict = "".join(f"<p>{html.escape(line)}</p>" for line in verdicts(runs))
    sections = [_compared(runs), _results(runs), _differences(runs), _validation(runs)]
    sections += [_calibration(runs), *map(_own, runs)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(names)}</title>
<style>
{style}</style>
</head>
<body>
<h1>{html.escape(question(runs))}</h1>
<div class="verdict">{verdict}</div>
{"".join(sections)}
</body>
</html>
"""


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers"
) -> str:
    """A table of text."""
    lines = [_row("th", heads)] if heads else []
    body = "\n".join([*lines, *(_row("td", row) for row in rows)])
    return f'<div class="scroll"><table class="{kind}">\n{body}\n</table></div>\n'


def _row(kind: str, cells: Iterable[str]) -> str:
    inside = "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>\n'


def _compared(runs: Sequence[Run]) -> str:
    """In which settings the runs differ."""
    rows = [
        (f"--{name}", *values) for name, values in settings_that_differ(runs).items()
    ]
    if not rows:
        return ""
    heads = ["", *(run.name for run in runs)]
    return "<h2>What differs</h2>\n" + _table(heads, rows, "words")


def _results(runs: Sequence[Run]) -> str:
    """All metrics with their intervals, a row a run and place."""
    names = list(dict.fromkeys(name for run in runs for name in run.names))
    names = [name for name in names if name not in _CALIBRATION]
    several = any(len(run.results) > 1 for run in runs)
    heads = ["run", "after", *names, *["seeds"] * several]
    rows = []
    for run in runs:
        axis = run.results[0]["axis"]
        for place in evenly(run.places, _MOST_ROWS):
            cells = [run.name, f"{place} {axis}"]
            cells += [_cell(run, name, place) for name in names]
            if several:
                means = run.each(run.metric.name, place)
                spread = f", std {np.std(means, ddof=1):.2g}" if len(means) > 1 else ""
                cells.append(f"{len(means)}{spread}")
            rows.append(cells)
    text = (
        "Means over unseen tasks with 95% intervals, which tell of the choice of tasks."
    )
    if several:
        text += " With several seeds, of the mean over them of each task."
    else:
        text += " Of training with another seed they do not tell."
    return "<h2>Results</h2>\n" + _table(heads, rows) + _note(text)


def _cell(run: Run, name: str, place: int) -> str:
    if f"{name}_{place}" not in run.tested.values:  # No number of a task.
        number = np.mean(run.each(name, place))
        return measuring.short(number) if np.isfinite(number) else "-"
    found = mj.summarize(run.at(name, place))
    if found.num_nonfinite:
        median = measuring.short(found.median)
        return f"median {median}, {found.num_nonfinite} not finite"
    return with_interval(run.metric, name, found.mean, found.interval)


def _differences(runs: Sequence[Run]) -> str:
    """Paired differences of all pairs that have the same tasks."""
    rows = []
    for group in comparable(runs):
        for a, b in itertools.combinations(group, 2):
            of = [f"{r.name} (after {r.place})" for r in (a, b)]
            for name in (name for name in a.names if name in b.names):
                if np.array_equal(a.at(name), b.at(name)):
                    continue  # Of others that both were measured beside.
                mean, interval = difference(a, b, name)
                excludes = "yes" if abs(mean) > interval else "no"
                excludes = excludes if np.isfinite(mean) else "-"
                told = with_interval(a.metric, name, mean, interval)
                rows.append((" minus ".join(of), name, told, excludes))
    if not rows:
        return ""
    text = (
        "Task by task, which cancels how hard a task is; each run after what its "
        "parameters were chosen by, or else the most there is."
    )
    if len(runs) > 2:
        text += (
            " Each interval is of 95% by itself: of many pairs some differ by chance."
        )
    heads = ["", "metric", "difference", "95% interval excludes 0"]
    return "<h2>Paired differences</h2>\n" + _table(heads, rows, "pairs") + _note(text)


def _calibration(runs: Sequence[Run]) -> str:
    names = [
        name
        for name in _CALIBRATION
        if any(np.isfinite(run.each(name, run.place)).any() for run in runs)
    ]
    if not names:
        return ""
    rows = [
        (run.name, *(_cell(run, name, run.place) for name in names)) for run in runs
    ]
    heads = ["run", *(_CALIBRATION[name] for name in names)]
    text = (
        "How far confidence is from the share that is right, over the queries of all "
        "tasks, and the squared error of probabilities: 0 is best of both."
    )
    return "<h2>Calibration</h2>\n" + _table(heads, rows) + _note(text)


def _validation(runs: Sequence[Run]) -> str:
    """The metrics that count on validation tasks, of all runs and seeds."""
    if sum(len(run.directories) for run in runs) == 1:  # Its own curves show that.
        return ""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics = list(dict.fromkeys(run.metric.name for run in runs))
    size = (7, 3.2 * len(metrics))
    figure, axes = plt.subplots(
        len(metrics), figsize=size, squeeze=False, layout="constrained"
    )
    for name, axis in zip(metrics, axes[:, 0]):
        axis.set(xlabel="outer step", ylabel=f"{name} on validation tasks")
    for index, run in enumerate(runs):
        axis, name = axes[metrics.index(run.metric.name), 0], run.metric.name
        for number, directory in enumerate(run.directories):
            lines = logs.read_metrics(directory / "metrics.jsonl")
            found = [(line["step"], line.get(f"validation/{name}")) for line in lines]
            steps = [step for step, value in found if value is not None]
            values = [value for _, value in found if value is not None]
            label = None if number else run.name
            axis.plot(steps, values, marker=".", color=f"C{index % 10}", label=label)
        axis.legend(fontsize="small")
        low, high = axis.dataLim.intervaly
        axis.set_yscale("log" if 0 < 100 * low < high else "linear")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    plt.close(figure)
    text = "Against the outer step, a line a seed."
    return "<h2>Validation</h2>\n" + _figure(drawn.getvalue(), "png", text)


def _own(run: Run) -> str:
    """What one run drew, and what it was made with."""
    order = [*_CAPTIONS]
    shown = sorted(
        run.pictures,
        key=lambda path: order.index(path.stem) if path.stem in order else len(order),
    )
    figures = "".join(
        _figure(path.read_bytes(), path.suffix[1:], _CAPTIONS.get(path.stem, path.stem))
        for path in shown
    )
    result = run.results[0]
    rows = [("directory", str(run.directories[0]))] if len(run.results) == 1 else []
    rows += [
        (
            "parameters",
            f"of step {one['best_step']} of {one['steps']}, seed {one['seed']}",
        )
        for one in run.results
    ]
    rows += [("training", f"{result['train_seconds']:g} seconds")]
    rows += [("tasks of the test", f"{result['num_tasks']}, {result['tasks_hash']}")]
    for start in run.starts:
        rows += [("arguments", shlex.join(start["arguments"]))]
        rows += [("commit", str(start["commit"])), ("device", start["device"])]
        packages = {"python": start["python"]} | start["versions"]
        rows += [("versions", ", ".join(f"{k} {v}" for k, v in packages.items()))]
    settings = html.escape("\n".join(run.settings))
    return (
        f"<h2>{html.escape(run.name)}</h2>\n{figures}"
        f"{_table([], rows, 'words')}"
        f"<details><summary>All settings</summary><pre>{settings}</pre></details>\n"
    )


def _figure(picture: bytes, kind: str, caption: str) -> str:
    from PIL import Image

    text, data = html.escape(caption), base64.b64encode(picture).decode()
    width, height = Image.open(io.BytesIO(picture)).size
    size = f'width="{width}" height="{height}" style="--ratio: {width / height:.3f}"'
    return (
        f'<figure><div class="scroll"><img alt="{text}" {size} '
        f'src="data:image/{kind};base64,{data}"></div>'
        f"<figcaption>{text}</figcaption></figure>\n"
    )
