"""From an objective on one task to a meta-gradient over many.

Here, and in training and evaluation, is where the task axis lives.
"""

from collections.abc import Callable

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec

from metajax.base import Estimator, Key, MetaParams, Objective, PyTree, Task


def task_mesh(num_devices: int | None = None) -> Mesh:
    """The first devices, or all, as a mesh with the one axis "tasks"."""
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((len(devices),), ("tasks",), (AxisType.Auto,), devices=devices)


def backprop(
    objective: Objective,
    *,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Estimator:
    """The gradient of the mean objective over tasks, by reverse mode.

        d/d meta  mean_i objective(key_i, meta, task_i)

    Args:
      objective: what one task costs.
      tasks_per_chunk: how many tasks a device differentiates at a time. The chunks
        follow one another, so memory is that of one chunk; the result is the same to
        rounding. None takes all at once.
      mesh: devices among which the tasks are divided, from `task_mesh`; the result is
        the same to rounding. None leaves all to one device.

    Returns:
      An estimator: `(key, meta, tasks) -> ((loss, metrics), gradient)`, with loss and
      metrics averaged over tasks.

    Raises:
      ValueError: by the estimator, if the number of tasks is not a multiple of the
        number of devices, or that of a device's tasks not one of the chunk.

    Note:
      The mean is differentiated rather than gradients averaged: one gradient of the
      meta-parameters is held, not one a task.

    Example:
      Two CPU cores work best side by side, each on tasks of its own, one at a time:

      >>> jax.config.update("jax_num_cpu_devices", 2)  # doctest: +SKIP
      >>> mesh = task_mesh()  # doctest: +SKIP
      >>> meta_grad = backprop(objective, tasks_per_chunk=1, mesh=mesh)  # doctest: +SKIP
    """
    if tasks_per_chunk is not None and tasks_per_chunk < 1:
        raise ValueError(f"tasks_per_chunk must be at least 1: got {tasks_per_chunk}.")

    def mean_objective(meta: MetaParams, keys: Key, tasks: Task):
        each = jax.vmap(objective, in_axes=(0, None, 0))(keys, meta, tasks)
        return jax.tree.map(lambda values: jnp.mean(values, axis=0), each)

    mean_and_grad = jax.value_and_grad(mean_objective, has_aux=True)
    mean_and_grad = _in_chunks(mean_and_grad, tasks_per_chunk)
    if mesh is not None:
        mean_and_grad = _on_devices(mean_and_grad, mesh)

    def estimate(key: Key, meta: MetaParams, tasks: Task):
        indices = jnp.arange(len(jax.tree.leaves(tasks)[0]))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        return mean_and_grad(meta, keys, tasks)

    return estimate


# A mean over tasks: (meta, keys, tasks) to a tree of values averaged over tasks.
MeanOverTasks = Callable[[MetaParams, Key, Task], PyTree]


def _in_chunks(mean: MeanOverTasks, chunk: int | None) -> MeanOverTasks:
    """The same mean, of so many tasks at a time."""

    def mean_of_chunks(meta: MetaParams, keys: Key, tasks: Task):
        num_tasks = len(keys)
        if chunk is None or chunk == num_tasks:
            return mean(meta, keys, tasks)
        if num_tasks % chunk:
            raise ValueError(
                f"tasks_per_chunk={chunk} does not divide the {num_tasks} tasks of a "
                f"device; choose a divisor of {num_tasks}."
            )

        def add_chunk(total, inputs):
            (loss, metrics), grads = mean(meta, *inputs)
            return jax.tree.map(jnp.add, total, grads), (loss, metrics)

        num_chunks = num_tasks // chunk
        chunks = jax.tree.map(
            lambda x: x.reshape(num_chunks, chunk, *x.shape[1:]), (keys, tasks)
        )
        zeros = jax.tree.map(jnp.zeros_like, meta)
        total, values = jax.lax.scan(add_chunk, zeros, chunks)
        values = jax.tree.map(lambda x: jnp.mean(x, axis=0), values)
        return values, jax.tree.map(lambda x: x / num_chunks, total)

    return mean_of_chunks


def _on_devices(mean: MeanOverTasks, mesh: Mesh) -> MeanOverTasks:
    """The same mean, each device taking its share of the tasks."""

    def mean_of_share(meta: MetaParams, keys: Key, tasks: Task):
        # Raveled, so that devices meet once a step rather than once a parameter.
        vector, unravel = ravel_pytree(mean(meta, keys, tasks))
        return unravel(jax.lax.pmean(vector, "tasks"))

    def mean_of_shares(meta: MetaParams, keys: Key, tasks: Task):
        if len(keys) % mesh.size:
            raise ValueError(
                f"{len(keys)} tasks cannot be divided among {mesh.size} devices: choose "
                f"a multiple of {mesh.size}."
            )
        # Without varying-axes checks a gradient is that of the device's own tasks.
        everywhere, each = PartitionSpec(), PartitionSpec("tasks")
        divided = jax.shard_map(
            mean_of_share,
            mesh=mesh,
            in_specs=(everywhere, each, each),
            out_specs=everywhere,
            check_vma=False,
        )
        return divided(meta, keys, tasks)

    return mean_of_shares
