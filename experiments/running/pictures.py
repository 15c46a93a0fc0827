"""The pictures that every run draws."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from experiments.running.measuring import Measurement
import metajax as mj
from metajax import files, logs

_MUTED = "0.55"


def curves(metrics: Path, path: Path) -> None:
    """Training and validation against the outer step, one panel a metric."""
    lines = logs.read_metrics(metrics)
    parts = {name.partition("/")[::2] for line in lines for name in line}
    names = {name for part, name in parts if part in ("train", "validation")}
    if not any(line.get("train/skipped") for line in lines):
        names -= {"skipped"}
    names = sorted(names)
    if not names:
        return
    figure, axes = plt.subplots(
        1, len(names), figsize=(4 * len(names), 3), squeeze=False
    )
    for name, axis in zip(names, axes[0]):
        for part, style in (
            ("train", {"color": _MUTED}),
            ("validation", {"marker": "."}),
        ):
            points = [
                (line["step"], line[f"{part}/{name}"])
                for line in lines
                if line.get(f"{part}/{name}") is not None
            ]
            if points:
                axis.plot(*zip(*points), label=part, **style)
        axis.set(xlabel="outer step", title=name)
        if name == "loss":
            axis.set_yscale("log")
        axis.legend()
    save(figure, path)


def along_axis(found: Measurement, path: Path) -> None:
    """Each metric against the places along its axis, with 95% intervals."""
    figure, axes = plt.subplots(
        1, len(found.values), figsize=(4 * len(found.values), 3), squeeze=False
    )
    for (name, values), axis in zip(found.values.items(), axes[0]):
        rows = [mj.summarize(column) for column in values.T]
        means, intervals = [r.mean for r in rows], [r.interval for r in rows]
        axis.errorbar(
            found.places, means, intervals, capsize=3, marker=".", label="mean, 95%"
        )
        axis.plot(found.places, [r.median for r in rows], "--", label="median")
        axis.set(xlabel=found.axis, title=f"{name} on unseen tasks")
        if name == "loss":
            axis.set_yscale("log")
        axis.legend()
    save(figure, path)


def save(figure, path: Path) -> None:
    """Writes a figure to a PNG file, and lets go of it."""
    drawn = io.BytesIO()  # Pillow hides why it cannot write to a file.
    figure.tight_layout()
    figure.savefig(drawn, dpi=120, format="png")
    plt.close(figure)
    with files.whole(path) as file:
        file.write(drawn.getvalue())
