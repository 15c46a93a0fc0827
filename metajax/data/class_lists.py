"""Published splits into training, validation and test classes, shipped as JSON."""

import functools
from importlib import resources
import json
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")


def class_list(name: str, split: str) -> list[str]:
    """The class names of one part of a published split, in its order.

    Args:
      name: of the split, such as "cifar_fs"; it is a file of `metajax/data/splits`.
      split: "train", "validation" or "test".

    Returns:
      The names of the classes.

    Raises:
      ValueError: if there is no such part.

    Example:
      >>> class_list("cifar_fs", "test")[:3]
      ['whale', 'poppy', 'rose']
    """
    if split not in SPLITS:
        raise ValueError(f"{name} has no split {split!r}: train, validation or test.")
    return list(_read(name)[split])


def read_split(path: str | Path) -> dict[str, list[str]]:
    """The class names of a split of one's own, from a JSON file.

    Args:
      path: a file such as `{"train": ["a", "b"], "validation": ["c"], "test": ["d"]}`.

    Returns:
      The names by "train", "validation" and "test".

    Raises:
      ValueError: if it is no such file.
    """
    try:
        found = json.loads(Path(path).read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    lists: list[Any] = [None]
    if isinstance(found, dict):
        lists = [found.get(split) for split in SPLITS]
    for names in lists:
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ValueError(
                f"{path} must be an object of train, validation and test, each a list of "
                "class names."
            )
    return dict(zip(SPLITS, lists))


@functools.cache
def _read(name: str) -> dict[str, list[str]]:
    file = resources.files("metajax.data") / "splits" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))
