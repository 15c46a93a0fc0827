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
    "Training, validation and test classes of your own data: fractions, files with one "
    "class name a line, or a single JSON file of lists train, validation and test.",
)


@flags.validator(
    CLASS_SPLIT.name,
    "must have three parts, training, validation, test, or be a single file *.json",
    flag_values=FLAGS,
)
def _three(parts):
    return len(parts) == 3 or (len(parts) == 1 and parts[0].endswith(".json"))


def class_splits(data: ClassArrays, split: list[str]) -> list[ClassArrays]:
    """Three parts: by fractions, by three files of class names, or by one of lists."""
    import metajax as mj

    if len(split) == 1:
        names = mj.data.read_split(split[0])
        split = [f"{part} of {split[0]}" for part in names]
        parts = [mj.data.by_name(data, each) for each in names.values()]
        return _apart(split, parts)
    try:
        fractions = [float(part) for part in split]
    except ValueError:
        parts = [mj.data.by_name(data, path) for path in split]
    else:
        parts = mj.data.by_fraction(data, fractions)
    return _apart(split, parts)


def _apart(split: list[str], parts: list[ClassArrays]) -> list[ClassArrays]:
    """The parts, no two of which may have a class in common."""
    for (a, first), (b, second) in itertools.combinations(zip(split, parts), 2):
        shared = sorted(set(first.names) & set(second.names))
        if shared:
            raise ValueError(
                f"Class {shared[0]!r} is in both {a} and {b}: the classes of training, "
                "validation and test must differ."
            )
    return parts
