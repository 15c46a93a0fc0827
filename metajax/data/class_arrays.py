"""Labelled examples on the device, grouped by class."""

from collections.abc import Iterable, Mapping, Sequence, Set
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.numeric import as_numbers, check_rounding, unmasked


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClassArrays:
    """Examples grouped by class: what every few-shot task is drawn from.

    Build it with `from_arrays`. Classes may differ in size: row `c` of `rows` lists the
    examples of class `c`, and only its first `counts[c]` entries are meant.
    """

    inputs: jax.Array  # [examples, ...], uint8 images keep their type until drawn.
    rows: np.ndarray  # [classes, largest class], int32
    counts: np.ndarray  # [classes], int32
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each class: its name up to the first slash, "a" of "a/b"."""
        return tuple(name.partition("/")[0] for name in self.names)

    @property
    def digest(self) -> str:
        """Tells other data from this: 16 hexadecimal digits of all values and names."""
        digest = hashlib.blake2b(json.dumps(self.names).encode(), digest_size=8)
        for array in map(np.ascontiguousarray, (self.inputs, self.rows, self.counts)):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def take(self, classes: Sequence[int] | np.ndarray) -> "ClassArrays":
        """The same examples, restricted to the given classes, in the given order."""
        chosen = np.asarray(classes, dtype=np.int32)
        return ClassArrays(
            self.inputs,
            self.rows[chosen],
            self.counts[chosen],
            tuple(self.names[c] for c in chosen),
        )


def from_arrays(
    inputs: np.ndarray,
    labels: np.ndarray | Sequence[int] | Sequence[str],
    names: Sequence[str] | None = None,
) -> ClassArrays:
    """Groups labelled examples by class.

    Args:
      inputs: examples, `[examples, ...]`. Images are `[examples, height, width,
        channels]`; those of uint8 are scaled to [0, 1] when drawn, and whole values up
        to 255 of other types are made uint8.
      labels: the class of each example, `[examples]`, integers or strings.
      names: one name a class, for integer labels `0 .. len(names) - 1`; by default the
        distinct labels themselves, sorted. Words are stripped, in Unicode's form NFC.

    Returns:
      The examples as a `ClassArrays`; the inputs are put on the default device.

    Raises:
      ValueError: if lengths differ, inputs are no finite numbers or no such images, would
        be changed by the types that JAX keeps, labels and names do not fit, or a class
        is empty.

    Example:
      >>> data = from_arrays(np.zeros((6, 28, 28, 1), np.uint8), list("aabbcc"))
      >>> data.names, data.counts.tolist()
      (('a', 'b', 'c'), [2, 2, 2])
    """
    inputs = unmasked(inputs, "from_arrays: inputs")
    labels = as_labels(labels, "from_arrays: labels")
    if inputs.shape[:1] != labels.shape or not labels.size:
        raise ValueError(
            f"from_arrays needs one label an example: got inputs {inputs.shape} and "
            f"labels {labels.shape}."
        )
    inputs = _as_pixels(_as_inputs(inputs))
    if names is None:
        values, labels = np.unique(labels, return_inverse=True)
        names = [*values.tolist()]
    names = _as_names(names)
    counts = _counts(labels, names)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    rows = np.zeros((len(counts), counts.max()), np.int32)
    for row, examples in zip(rows, by_class):
        row[: len(examples)] = examples
    return ClassArrays(jnp.asarray(inputs), rows, counts.astype(np.int32), names)


def _as_inputs(inputs: np.ndarray) -> np.ndarray:
    kept = as_numbers(inputs, "from_arrays: inputs")
    if kept.dtype.kind == "c" or not np.isfinite(kept).all():
        raise ValueError(
            "from_arrays: inputs hold NaN, infinite or complex values; clean them."
        )
    check_rounding(kept, inputs, "from_arrays: inputs")
    return kept


def _as_pixels(inputs: np.ndarray) -> np.ndarray:
    """Images in uint8 if they can be, and other inputs as they are."""
    shape = inputs.shape
    if inputs.ndim >= 3 and inputs.dtype == np.uint16:
        raise ValueError(
            f"from_arrays: inputs are uint16, {shape}: scale images to uint8, or to "
            "float32 from 0 to 1, and give other numbers as int32."
        )
    if inputs.ndim != 4 or not inputs.size:
        return inputs
    if shape[1] in (1, 3) and min(shape[2:]) > 4:
        raise ValueError(
            f"from_arrays: inputs {shape} have channels first, where [examples, height, "
            "width, channels] is needed: give np.moveaxis(inputs, 1, -1)."
        )
    low, high = inputs.min(), inputs.max()
    if inputs.dtype == np.uint8 or shape[-1] not in (1, 3, 4) or low < 0 or high <= 127:
        return inputs
    pixels = np.clip(inputs, 0, 255).astype(np.uint8)
    if (pixels != inputs).any():
        raise ValueError(
            f"from_arrays: inputs are images of {inputs.dtype} from {low} to {high}: "
            "make them uint8, or scale them to float32 from 0 to 1."
        )
    return pixels


def as_labels(labels: Any, name: str) -> np.ndarray:
    """Labels as integers, or as words in one spelling; `name` is theirs in messages."""
    if isinstance(labels, list | tuple):  # NumPy would make nan beside words a word.
        labels = np.array(labels, dtype=object)
    labels = unmasked(labels, name)
    if labels.ndim != 1 or not len(labels):
        return labels  # To be refused by its shape.
    if labels.dtype.kind == "O":
        words = [isinstance(label, str | bytes) for label in labels]
        if any(words) and not all(words):
            odd = labels[words.index(False)]
            raise ValueError(f"{name} are words, but for one, {odd!r}.")
        labels = labels if all(words) else np.array(labels.tolist())
    if labels.dtype.kind in "OSTU" and isinstance(labels[0], str | bytes):
        return np.array([_spelled(label) for label in labels])
    if labels.dtype.kind == "f":
        odd = labels[~np.isfinite(labels) | (labels != np.rint(labels))]
        if len(odd):
            raise ValueError(f"{name} hold {odd[0]}, which is no class.")
        return labels.astype(np.int64)
    if labels.dtype.kind not in "biu":
        raise ValueError(f"{name} must be integers or words: got {labels.dtype}.")
    return labels


def _spelled(name: Any) -> str:
    """The name of a class in one spelling, of those that look the same."""
    text = name.decode() if isinstance(name, bytes) else str(name)
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise ValueError(f"A class must have a name: got {name!r}.")
    return text


def _as_names(names: Iterable) -> tuple[str, ...]:
    if isinstance(names, Mapping | Set | str):
        raise ValueError(
            "from_arrays: names must be a list in the order of the labels: got "
            f"{type(names).__name__}."
        )
    names = tuple(map(_spelled, names))
    if len(set(names)) < len(names):
        raise ValueError("from_arrays: two classes have the same name.")
    return names


def _counts(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """How many examples each class has: one at least."""
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            "from_arrays: with names given, labels must be their indices, from 0: got "
            f"{labels.dtype}, such as {labels.min()}."
        )
    if labels.max() >= len(names):
        raise ValueError(
            f"from_arrays: label {labels.max()} has no name; {len(names)} were given."
        )
    counts = np.bincount(labels, minlength=len(names))
    if not counts.all():
        empty = [name for name, count in zip(names, counts) if not count]
        raise ValueError(f"from_arrays: no example of class {', '.join(empty)}.")
    return counts


def by_fraction(
    data: ClassArrays, fractions: Sequence[float], seed: int = 0
) -> list[ClassArrays]:
    """Shuffles the classes and deals them out by fractions, one part each.

    Args:
      data: the examples to split.
      fractions: positive shares of the classes, summing to 1.
      seed: of the shuffle; the same seed gives the same parts on every machine.

    Returns:
      One `ClassArrays` a fraction; no class is in two of them.

    Raises:
      ValueError: if fractions do not sum to 1 or a part would have no class.
    """
    if not all(f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"Class fractions must be positive and sum to 1: got {list(fractions)}."
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(data.num_classes)
    cuts = np.rint(np.cumsum(fractions)[:-1] * data.num_classes).astype(int)
    parts = np.split(order, cuts)
    if not all(map(len, parts)):
        raise ValueError(
            f"{data.num_classes} classes are too few for the fractions {list(fractions)}."
        )
    return [data.take(np.sort(part)) for part in parts]


def by_name(data: ClassArrays, names: Sequence[str] | str | Path) -> ClassArrays:
    """Keeps the classes with the given names.

    Args:
      data: the examples to choose from.
      names: class names, or a text file that has one name a line.

    Returns:
      The chosen classes, in the order of `names`.

    Raises:
      ValueError: if there is no name, or one is unknown or comes twice.
    """
    if isinstance(names, str | Path):
        lines = Path(names).read_text("utf-8-sig").splitlines()
        names = [line for line in lines if line.strip()]
    names = [_spelled(name) for name in names]
    if not names:
        raise ValueError("A split names no class; name at least one.")
    if len(set(names)) < len(names):
        raise ValueError("A class is named twice; name each class of a split once.")
    index = {name: c for c, name in enumerate(data.names)}
    unknown = [name for name in names if name not in index]
    if unknown:
        raise ValueError(
            f"Unknown class {', '.join(unknown[:5])}: the {data.num_classes} classes "
            f"here are {', '.join(data.names[:10])}{' ...' * (data.num_classes > 10)}."
        )
    return data.take([index[name] for name in names])
