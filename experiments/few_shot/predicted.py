"""Pictures of what is predicted of a user's own examples."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.running.pictures import save
from metajax.using import Label, Predictions

_MOST = 48  # Queries in one picture.
_COLUMNS = 8


def images(
    support: np.ndarray,
    labels: Sequence[Label],
    queries: np.ndarray,
    found: Predictions,
    path: Path,
) -> None:
    """One example of each class above, and the queries with their classes below."""
    places = [list(labels).index(label) for label in found.classes]
    shown = queries[:_MOST]
    rows = [-(-len(each) // _COLUMNS) for each in (places, shown)]
    figure, axes = plt.subplots(
        sum(rows), _COLUMNS, figsize=(1.5 * _COLUMNS, 1.8 * sum(rows)), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, place in zip(axes[: rows[0]].flat, places):
        _show(axis, support[place], str(labels[place]), "black")
    each = zip(shown, found.labels, found.probabilities.max(axis=1))
    for axis, (image, label, share) in zip(axes[rows[0] :].flat, each):
        color = plt.cm.RdYlGn(0.1 + 0.8 * share)
        _show(axis, image, f"{label} {share:.0%}", color)
    more = len(queries) - len(shown)
    figure.suptitle(
        "above an example of each class, below queries with their classes"
        + f" ({more} more)" * (more > 0)
    )
    save(figure, path)


def _show(axis, image: np.ndarray, title: str, color) -> None:
    if image.shape[-1] == 1:
        axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=_full(image))
    else:
        axis.imshow(image)
    axis.set_title(title[:22], fontsize=8, color="black")
    axis.add_patch(
        plt.Rectangle(
            (0, 0), 1, 1, fill=False, lw=2, ec=color, transform=axis.transAxes
        )
    )


def _full(image: np.ndarray) -> float:
    return 255 if image.dtype == np.uint8 else 1


def bars(names: Sequence[str], found: Predictions, path: Path) -> None:
    """The probability of each class, a line a query."""
    shown = found.probabilities[:_MOST]
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.3 * len(shown)))
    left, rows = np.zeros(len(shown)), np.arange(len(shown))
    for column, label in enumerate(found.classes):
        color = plt.cm.tab20(column % 20)
        axis.barh(rows, shown[:, column], left=left, color=color, label=str(label))
        left = left + shown[:, column]
    axis.set_yticks(rows, [name[:50] for name in names[:_MOST]], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="probability", xlim=(0, 1))
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def values(
    support: np.ndarray,
    targets: np.ndarray,
    queries: np.ndarray,
    found: Predictions,
    path: Path,
) -> None:
    """The first output against the first number of each input."""
    figure, axis = plt.subplots(figsize=(6, 4))
    order = np.argsort(queries[:, 0])
    axis.plot(queries[order, 0], found.outputs[order, 0], ".-", label="predicted")
    axis.plot(support[:, 0], np.asarray(targets)[:, 0], "k^", label="support")
    axis.set(xlabel="input", ylabel="output")
    axis.legend()
    save(figure, path)
