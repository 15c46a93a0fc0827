"""Few-shot classification tasks, drawn from labelled examples inside jit."""

import collections
from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Key, Task
from metajax.data.class_arrays import ClassArrays

Transform = Callable[[Key, jax.Array], jax.Array]


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
      >>> from metajax.data.class_arrays import from_arrays
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
            self._check_groups(self.groups)

    def _check_groups(self, groups: tuple):
        if len(groups) != self.data.num_classes or not self.permute_labels:
            raise ValueError(
                f"groups must have one label for each of {self.data.num_classes} "
                f"classes, and permute_labels be True: got {len(groups)} labels."
            )
        sizes = collections.Counter(groups)
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
        inputs = scaled(self.data.inputs[rows])  # [ways, shots + queries, ...]
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


def scaled(inputs: jax.Array) -> jax.Array:
    """Inputs as models take them: uint8, such as pixels, from 0 to 1; halves as floats.

    Half precision is for keeping many of them, not for products and squares.
    """
    if inputs.dtype == jnp.uint8:
        return inputs.astype(jnp.float32) / 255
    return inputs.astype(jnp.float32) if inputs.dtype == jnp.float16 else inputs


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
