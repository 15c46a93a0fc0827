"""Published splits into training, validation and test classes, shipped as JSON."""

import functools
from importlib import resources
import json

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


@functools.cache
def _read(name: str) -> dict[str, list[str]]:
    file = resources.files("metajax.data") / "splits" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))
