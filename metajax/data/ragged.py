"""Tasks of differing sizes in arrays of one size, and a check of masks of your own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Key, Task
from metajax.data.few_shot import FewShot


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Draws tasks that differ in size, as masks over the tasks of another sampler.

    A task has a number of ways, drawn uniformly from its range; each class in it has
    numbers of shots and of queries of its own. What is left of the largest task is
    padding: its inputs are 0 and its masks False, so that all tasks have one shape, and
    one compiled program.

    Attributes:
      sampler: draws the largest task.
      ways: fewest and most classes a task.
      shots: fewest and most support examples a class.
      queries: fewest and most query examples a class.

    Raises:
      ValueError: if a range is empty, or goes beyond the largest task.

    Example:
      >>> from metajax.data.class_arrays import from_arrays
      >>> data = from_arrays(np.ones((60, 8)), np.arange(60) % 6)
      >>> largest = FewShot(data, ways=5, shots=5, queries=3)
      >>> sampler = Ragged(largest, ways=(2, 5), shots=(1, 5), queries=(3, 3))
      >>> task = jax.jit(sampler)(jax.random.key(0))
      >>> task.support.inputs.shape, task.support.mask.shape
      ((25, 8), (25,))

    Note:
      A class that is not in the task has no support example, which a learner must bear.
    """

    sampler: FewShot
    ways: tuple[int, int] = dataclasses.field(metadata={"static": True})
    shots: tuple[int, int] = dataclasses.field(metadata={"static": True})
    queries: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def __post_init__(self):
        if not isinstance(self.sampler, FewShot):
            return  # JAX rebuilds the sampler around placeholders.
        for name in ("ways", "shots", "queries"):
            bounds, most = getattr(self, name), getattr(self.sampler, name)
            if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] <= most:
                raise ValueError(
                    f"Ragged: {name} must be a range (fewest, most) from 1 to {most}, "
                    f"the {name} of its sampler: got {bounds}."
                )

    def __call__(self, key: Key) -> Task:
        task_key, ways_key, shots_key, queries_key = jax.random.split(key, 4)
        task = self.sampler(task_key)
        ways = _uniform(ways_key, (), self.ways)
        present = jnp.arange(self.sampler.ways) < ways  # Their order is random.
        return Task(
            _padded(
                task.support, present, _uniform(shots_key, present.shape, self.shots)
            ),
            _padded(
                task.query, present, _uniform(queries_key, present.shape, self.queries)
            ),
        )


def _uniform(key: Key, shape: tuple[int, ...], bounds: tuple[int, int]) -> jax.Array:
    return jax.random.randint(key, shape, bounds[0], bounds[1] + 1)


def _padded(batch: Batch, present: jax.Array, sizes: jax.Array) -> Batch:
    """Keeps the first examples of each present class, of a batch laid out by class."""
    places = jnp.arange(len(batch.targets) // len(present))
    mask = (present[:, None] & (places[None] < sizes[:, None])).reshape(-1)
    each = mask.reshape(-1, *(1,) * (batch.inputs.ndim - 1))
    return Batch(jnp.where(each, batch.inputs, 0), batch.targets, mask)


def check_support(task: Task) -> None:
    """Makes sure that every class a query asks for has a support example.

    For tasks that you pad yourself: masks that hide a whole class give no error
    anywhere, and queries that no learner can answer.

    Args:
      task: one task, or many, `[tasks, ...]`, with class labels as targets. It must be
        there, rather than traced by `jit`.

    Raises:
      ValueError: if a class is asked for and not shown; it names the class.

    Example:
      >>> mask = jnp.array([True, False])
      >>> support = Batch(jnp.zeros((2, 3)), jnp.array([0, 1]), mask)
      >>> check_support(Task(support, Batch(jnp.ones((1, 3)), jnp.array([0]))))
      >>> check_support(Task(support, Batch(jnp.ones((1, 3)), jnp.array([1]))))
      Traceback (most recent call last):
      ValueError: Task 0 asks for class 1, of which no support example is real: ...
    """
    shown, asked = map(_real_labels, task)
    for index, (classes, wanted) in enumerate(zip(shown, asked, strict=True)):
        missing = sorted(wanted - classes)
        if missing:
            raise ValueError(
                f"Task {index} asks for class {', '.join(map(str, missing))}, of which "
                "no support example is real: show one, or mask its queries, too."
            )


def _real_labels(batch: Batch) -> list[set[int]]:
    targets = np.atleast_2d(batch.targets)
    mask = np.ones(targets.shape, bool) if batch.mask is None else batch.mask
    mask = np.atleast_2d(mask)
    return [set(labels[real].tolist()) for labels, real in zip(targets, mask)]
