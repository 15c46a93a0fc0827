"""Labelled examples on the device, and few-shot tasks drawn from them inside jit."""

import collections
from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Key, Task

Transform = Callable[[Key, jax.Array], jax.Array]


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

    def take(self, classes: Sequence[int]) -> "ClassArrays":
        """The same examples, restricted to the given classes, in the given order."""
        classes = np.asarray(classes, dtype=np.int32)
        return ClassArrays(
            self.inputs,
            self.rows[classes],
            self.counts[classes],
            tuple(self.names[c] for c in classes),
        )


def from_arrays(
    inputs: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
) -> ClassArrays:
    """Groups labelled examples by class.

    Args:
      inputs: examples, `[examples, ...]`; uint8 images are scaled to [0, 1] when drawn.
      labels: the class of each example, `[examples]`, integers or strings.
      names: one name a class, for integer labels `0 .. len(names) - 1`; by default the
        distinct labels themselves, sorted.

    Returns:
      The examples as a `ClassArrays`; the inputs are put on the default device.

    Raises:
      ValueError: if lengths differ, inputs are no finite numbers, labels and names do
        not fit, or a class is empty.

    Example:
      >>> data = from_arrays(np.zeros((6, 28, 28, 1), np.uint8), list("aabbcc"))
      >>> data.names, data.counts.tolist()
      (('a', 'b', 'c'), [2, 2, 2])
    """
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if (
        labels.ndim != 1
        or not inputs.ndim
        or len(inputs) != len(labels)
        or not len(labels)
    ):
        raise ValueError(
            f"from_arrays needs one label an example: got inputs {inputs.shape} and "
            f"labels {labels.shape}."
        )
    inputs = _as_numbers(inputs)
    if names is None:
        values, labels = np.unique(labels, return_inverse=True)
        names = [str(value) for value in values]
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError("from_arrays: two classes have the same name.")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            "from_arrays: with names given, labels must be their indices, from 0: got "
            f"{labels.dtype} from {labels.min()}."
        )
    counts = np.bincount(labels, minlength=len(names))
    if len(counts) > len(names):
        raise ValueError(
            f"from_arrays: label {len(counts) - 1} has no name; {len(names)} were given."
        )
    if not counts.all():
        empty = [name for name, count in zip(names, counts) if not count]
        raise ValueError(f"from_arrays: no example of class {', '.join(empty)}.")
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    rows = np.zeros((len(counts), counts.max()), np.int32)
    for row, examples in zip(rows, by_class):
        row[: len(examples)] = examples
    return ClassArrays(jnp.asarray(inputs), rows, counts.astype(np.int32), tuple(names))


def _as_numbers(inputs: np.ndarray) -> np.ndarray:
    """The inputs in a type that JAX keeps, if that changes none of their values."""
    kinds = {"f": np.float32, "i": np.int32, "u": np.uint32}
    if inputs.dtype.kind not in "fiub":
        raise ValueError(f"from_arrays: inputs must be numbers: got {inputs.dtype}.")
    if inputs.dtype.itemsize < 8:
        kept = inputs
    else:
        with np.errstate(over="ignore"):
            kept = inputs.astype(kinds[inputs.dtype.kind])
    whole = inputs.dtype.kind != "f"
    if not np.isfinite(kept).all() or (whole and (kept != inputs).any()):
        raise ValueError(
            "from_arrays: inputs hold NaN, infinite or too large values; clean them."
        )
    return kept


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
        lines = Path(names).read_text().splitlines()
        names = [line.strip() for line in lines if line.strip()]
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FewShot:
    """Draws classification tasks: a pure function of a key, to be called inside jit.

    A task has `ways` distinct classes in random order, which number its labels, and
    `shots` support and `queries` query examples of each class, all distinct, laid out
    class by class. uint8 images are scaled to [0, 1] on the device.

    Attributes:
      data: the classes to draw from.
      ways: classes a task.
      shots: support examples a class.
      queries: query examples a class.
      transform: applied to a task's images, `(key, [ways, shots + queries, ...])`, such
        as `quarter_turns`.
      permute_labels: False keeps the classes in the order of `data`, so that labels
        mean the same in every task; `ways` must then be all classes.
      groups: one label a class: all classes of a task are then of one group, drawn
        uniformly from the groups that have `ways` classes. `data.groups` are Omniglot's
        alphabets, or CLINC150's domains. Other sequences become a tuple.

    Raises:
      ValueError: if the classes, their examples or the groups are too few.

    Example:
      >>> data = from_arrays(np.zeros((60, 8, 8, 1), np.uint8), np.arange(60) % 6)
      >>> task = FewShot(data, ways=5, shots=1, queries=3)(jax.random.key(0))
      >>> task.support.inputs.shape, task.query.targets.shape
      ((5, 8, 8, 1), (15,))
    """

    data: ClassArrays
    ways: int = dataclasses.field(metadata={"static": True})
    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    transform: Transform | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    permute_labels: bool = dataclasses.field(default=True, metadata={"static": True})
    groups: tuple | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        if not isinstance(self.groups, tuple | None):
            object.__setattr__(
                self, "groups", tuple(np.atleast_1d(self.groups).tolist())
            )
        if not isinstance(self.data, ClassArrays):
            return  # JAX rebuilds the sampler around placeholders.
        data, needed = self.data, self.shots + self.queries
        if min(self.ways, self.shots, self.queries) < 1:
            raise ValueError(
                f"ways, shots and queries must be at least 1: got {self.ways}, "
                f"{self.shots}, {self.queries}."
            )
        if self.ways > data.num_classes:
            raise ValueError(
                f"{self.ways}-way tasks need {self.ways} classes; the data has "
                f"{data.num_classes}."
            )
        if not self.permute_labels and self.ways != data.num_classes:
            raise ValueError(
                f"permute_labels=False needs every class in every task: set "
                f"ways={data.num_classes} instead of {self.ways}."
            )
        if isinstance(data.counts, np.ndarray) and data.counts.min() < needed:
            smallest = int(data.counts.argmin())
            raise ValueError(
                f"{self.shots} shots + {self.queries} queries need {needed} examples a "
                f"class; class {data.names[smallest]!r} has {data.counts[smallest]}."
            )
        if self.groups is not None:
            self._check_groups()

    def _check_groups(self):
        if len(self.groups) != self.data.num_classes or not self.permute_labels:
            raise ValueError(
                f"groups must have one label for each of {self.data.num_classes} "
                f"classes, and permute_labels be True: got {len(self.groups)} labels."
            )
        sizes = collections.Counter(self.groups)
        if max(sizes.values()) < self.ways:
            found = ", ".join(
                f"{group} {size}" for group, size in sizes.most_common(10)
            )
            raise ValueError(
                f"{self.ways}-way tasks within a group need a group of {self.ways} "
                f"classes; the largest are {found}."
            )

    def __call__(self, key: Key) -> Task:
        class_key, example_key, transform_key = jax.random.split(key, 3)
        classes = self._classes(class_key)
        picks = jax.vmap(distinct, in_axes=(0, 0, None))(
            jax.random.split(example_key, self.ways),
            jnp.asarray(self.data.counts)[classes],
            self.shots + self.queries,
        )
        rows = jnp.asarray(self.data.rows)[classes[:, None], picks]
        inputs = self.data.inputs[rows]  # [ways, shots + queries, ...]
        if inputs.dtype == jnp.uint8:
            inputs = inputs.astype(jnp.float32) / 255
        if self.transform is not None:
            inputs = self.transform(transform_key, inputs)
        return Task(
            _class_by_class(inputs[:, : self.shots]),
            _class_by_class(inputs[:, self.shots :]),
        )

    def _classes(self, key: Key) -> jax.Array:
        """Draws the classes of a task, `[ways]`, in the order of its labels."""
        if not self.permute_labels:
            return jnp.arange(self.ways)
        if self.groups is None:
            return distinct(key, self.data.num_classes, self.ways)
        labels = np.unique(np.array(self.groups), return_inverse=True)[1]
        sizes = np.bincount(labels)
        # Row by row the classes of a group, padded to the size of the largest.
        members = np.argsort(
            labels[None] != np.arange(len(sizes))[:, None], kind="stable"
        )
        large = sizes >= self.ways
        group_key, class_key = jax.random.split(key)
        group = jax.random.randint(group_key, (), 0, large.sum())
        picks = distinct(class_key, jnp.asarray(sizes[large])[group], self.ways)
        return jnp.asarray(members[large, : sizes.max()])[group, picks]


def shown_first(batch: Batch, shots: int) -> Task:
    """A task of one batch: its first examples are the support, the rest the query."""
    return Task(
        jax.tree.map(lambda leaf: leaf[:shots], batch),
        jax.tree.map(lambda leaf: leaf[shots:], batch),
    )


def _class_by_class(inputs: jax.Array) -> Batch:
    """Flattens [ways, examples, ...] to [ways * examples, ...], with labels."""
    ways, examples = inputs.shape[:2]
    labels = jnp.repeat(jnp.arange(ways), examples)
    return Batch(inputs.reshape(ways * examples, *inputs.shape[2:]), labels)


def distinct(key: Key, count: jax.Array | int, num: int) -> jax.Array:
    """Draws `num` distinct integers below `count`, each ordered choice equally likely.

    Draw `i` is uniform over the `count - i` integers that are still free, and is then
    moved up past the taken ones. Unlike a shuffle the cost does not grow with `count`.

    Args:
      key: a random key.
      count: how many integers there are to choose from, at least `num`; may be traced.
      num: how many to draw.

    Returns:
      The integers, `[num]`, int32.
    """
    places = jnp.arange(num, dtype=jnp.int32)
    draws = jax.random.randint(key, (num,), 0, count - places)

    def place(taken, draw):  # taken is ascending, padded with the largest integer
        value = draw + jnp.sum(taken - places <= draw, dtype=jnp.int32)
        before = jnp.concatenate([jnp.full((1,), -1, jnp.int32), taken[:-1]])
        taken = jnp.where(taken < value, taken, jnp.maximum(before, value))
        return taken, value

    nothing = jnp.full((num,), jnp.iinfo(jnp.int32).max, jnp.int32)
    return jax.lax.scan(place, nothing, draws)[1]
