"""Tasks that the host makes: for data that is larger than the device."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import dataclasses
from functools import cache, partial

import jax
import numpy as np

from metajax.base import Key, Task
from metajax.data.numeric import as_numbers, check_rounding

MakeTask = Callable[[np.random.Generator], Task]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FromHost:
    """Draws tasks by a function that runs on the host, in threads.

    It is a sampler like any other, to be given to `train` and `evaluate`. What it draws
    depends on the key alone, so that a run goes on with the tasks it would have met.

    Attributes:
      make: from a NumPy generator to a task of NumPy arrays, the same task for the same
        generator, and of the same shapes and dtypes always. It may read files or a
        `numpy.memmap`; what it draws must come from the generator.
      num_threads: how many tasks are made at a time.

    Raises:
      ValueError: if two tasks differ in shapes or dtypes, or hold values that would be
        changed by the types that JAX keeps.

    Example:
      >>> from metajax.base import Batch
      >>> images = np.zeros((50, 20, 8, 8), np.float32)  # Or a memmap.
      >>> def make(random):
      ...     classes = random.choice(50, 5, replace=False)
      ...     chosen, labels = images[classes, :2], np.arange(5)
      ...     return Task(Batch(chosen[:, 0], labels), Batch(chosen[:, 1], labels))
      >>> task = FromHost(make)(jax.random.key(0))
      >>> task.support.inputs.shape
      (5, 8, 8)

    Note:
      The device waits while tasks are made. They are made for as many steps at a time as
      fit into a megabyte, one step at least.
    """

    make: MakeTask = dataclasses.field(metadata={"static": True})
    num_threads: int = dataclasses.field(default=8, metadata={"static": True})

    def __post_init__(self):
        if self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1: got {self.num_threads}.")
        _shapes(self.make)

    def __call__(self, key: Key) -> Task:
        seeds, shapes = jax.random.key_data(key), _shapes(self.make)
        return jax.pure_callback(self._many, shapes, seeds, vmap_method="expand_dims")

    def _many(self, seeds: jax.Array | np.ndarray) -> Task:
        """One task a seed, `[..., words]`; the leaves have the leading axes, too."""
        seeds = np.asarray(seeds)
        each = seeds.reshape(-1, seeds.shape[-1])
        with ThreadPoolExecutor(self.num_threads) as threads:
            tasks = list(threads.map(partial(_task, self.make), each))
        return jax.tree.map(
            lambda *leaves: np.stack(leaves).reshape(
                *seeds.shape[:-1], *leaves[0].shape
            ),
            *tasks,
        )


def _task(make: MakeTask, seed) -> Task:
    """The task of a seed, in the dtypes that the device would give it."""
    return _each(as_numbers, make(np.random.default_rng(seed)))


def _each(function: Callable, *tasks: Task) -> Task:
    """Calls a function with each array of a task, and with the array's name at last."""
    name = jax.tree_util.keystr
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(*leaves, f"FromHost: {name(path)}"), *tasks
    )


@cache  # JAX makes a sampler anew whenever it is an argument.
def _shapes(make: MakeTask) -> Task:
    made = [make(np.random.default_rng([seed])) for seed in (0, 1)]
    kept = [_each(as_numbers, task) for task in made]
    for pair in zip(kept, made):
        _each(check_rounding, *pair)
    first, second = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), task)
        for task in kept
    )
    if first != second:
        raise ValueError(
            "FromHost needs tasks of the same shapes and dtypes, with masks where they "
            f"differ in size: got {first} and {second}."
        )
    return first
