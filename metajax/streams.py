"""Streams of tasks: which key draws which task, whatever is drawn beside it."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax import contracts
from metajax.base import Key, PyTree, Sampler, Task


def threefry(key: Key) -> Key:
    """The same key for JAX's generator threefry, which it already is by default.

    Of the other generators (`jax_default_prng_impl` rbg, unsafe_rbg) `vmap` draws a whole
    batch from its first key: tasks would change with the chunk they are drawn in. Their
    keys begin with those of threefry for the same seed, so that streams are the same
    whatever the default.

    Args:
      key: from `jax.random.key`, of any generator.

    Returns:
      A typed key.

    Raises:
      ValueError: if it is no key, such as a seed.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    if not typed and (dtype != jnp.uint32 or jnp.shape(key)[-1:] not in ((2,), (4,))):
        raise ValueError(
            f"A key must be one of jax.random.key(seed): got {contracts.described(key)}."
        )
    data = jax.random.key_data(key) if typed else jnp.asarray(key)
    return jax.random.wrap_key_data(data[..., :2], impl="threefry2x32")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """Tasks that are there, to be evaluated on in their order.

    Attributes:
      tasks: leaves `[tasks, ...]`. Task `i` of any stream is the `i`-th, beginning anew
        after the last one; a key alone draws one of them.
    """

    tasks: PyTree

    def __call__(self, key: Key) -> PyTree:
        number = len(jax.tree.leaves(self.tasks)[0])
        return self.at(jax.random.randint(key, (), 0, number))

    def at(self, index: jax.Array) -> PyTree:
        """The task of this place in a stream."""
        return jax.tree.map(lambda x: x[index % len(x)], self.tasks)


def draw_tasks(key: Key, sampler: Sampler, indices: jax.Array) -> Task:
    """Draws the tasks of a stream: task `i` is `sampler(fold_in(key, i))`, or frozen.

    Args:
      key: fixes the stream.
      sampler: draws one task from a key.
      indices: which tasks of the stream, `[tasks]`.

    Returns:
      The tasks stacked, leaves `[tasks, ...]`.
    """
    if isinstance(sampler, Frozen):
        return jax.vmap(sampler.at)(indices)
    key = threefry(key)
    return jax.vmap(lambda i: sampler(jax.random.fold_in(key, i)))(indices)


def step_tasks(key: Key, step: jax.Array, sampler: Sampler, num_tasks: int) -> Task:
    """Draws the tasks of one outer step, as training does.

    Args:
      key: of the state, `TrainState.key`.
      step: the outer step, int32.
      sampler: draws one task from a key.
      num_tasks: tasks an outer step.

    Returns:
      The tasks stacked, leaves `[num_tasks, ...]`.
    """
    task_key, _ = step_keys(key, step)
    return draw_tasks(task_key, sampler, jnp.arange(num_tasks))


def step_keys(key: Key, step: jax.Array) -> Key:
    """The keys of one step: that of its tasks, and that of its estimator."""
    return jax.random.split(jax.random.fold_in(threefry(key), step))


def as_pytree(sampler: Sampler) -> PyTree:
    """The sampler as an argument for jit; a plain function becomes a static part of it."""
    if jax.tree_util.all_leaves([sampler]):
        return jax.tree_util.Partial(sampler)
    return sampler
