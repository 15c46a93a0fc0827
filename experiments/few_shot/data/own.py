"""What own data sets have in common: where they are, and how their classes are split."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from absl import flags

from experiments.few_shot.flags import FLAGS, names, text

if TYPE_CHECKING:
    from metajax.data import ClassArrays

DATA_PATH = text(
    "data_path", None, "Your own data: a folder, an npz file, or a CSV file."
)
CLASS_SPLIT = names(
    "class_split",
    ["0.6", "0.2", "0.2"],
    "Training, validation and test classes of your own data: fractions, or files "
    "with one class name a line.",
)


@flags.validator(
    CLASS_SPLIT.name,
    "must have three parts: training, validation, test",
    flag_values=FLAGS,
)
def _three(parts):
    return len(parts) == 3


def class_splits(data: ClassArrays, split: list[str]) -> list[ClassArrays]:
    """Three parts: by fractions, or by three files with one class name a line."""
    import metajax as mj

    try:
        fractions = [float(part) for part in split]
    except ValueError:
        parts = [mj.data.by_name(data, path) for path in split]
    else:
        parts = mj.data.by_fraction(data, fractions)
    for (a, first), (b, second) in itertools.combinations(zip(split, parts), 2):
        shared = sorted(set(first.names) & set(second.names))
        if shared:
            raise ValueError(
                f"Class {shared[0]!r} is in both {a} and {b}: the classes of training, "
                "validation and test must differ."
            )
    return parts
