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
    """Devices to divide tasks among, as a mesh with the one axis "tasks".

    Args:
      num_devices: how many, of the first that JAX has; all by default.

    Returns:
      The mesh.

    Raises:
      ValueError: if there are not so many.
    """
    devices = jax.devices()
    number = len(devices) if num_devices is None else num_devices
    if not 1 <= number <= len(devices):
        raise ValueError(
            f"task_mesh: choose 1 to {len(devices)} devices, the number there are: got "
            f"{number}."
        )
    return jax.make_mesh(
        (number,), ("tasks",), (AxisType.Auto,), devices=devices[:number]
    )


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
        the same to rounding. Where they do not divide the tasks, some take one more
        than others. None leaves all to one device.

    Returns:
      An estimator: `(key, meta, tasks) -> ((loss, metrics), gradient)`, with loss and
      metrics averaged over tasks.

    Raises:
      ValueError: by the estimator, if the number of tasks that a device takes at most
        is not a multiple of the chunk.

    Note:
      The mean is differentiated rather than gradients averaged: one gradient of the
      meta-parameters is held, not one a task.

    Example:
      Two CPU cores work best side by side, each on tasks of its own, one at a time:

      >>> jax.config.update("jax_num_cpu_devices", 2)  # doctest: +SKIP
      >>> mesh = task_mesh()  # doctest: +SKIP
      >>> meta_grad = backprop(objective, tasks_per_chunk=1, mesh=mesh)  # doctest: +SKIP

      Training starts from a state that all of them hold, or compiles twice:

      >>> everywhere = jax.NamedSharding(mesh, jax.P())  # doctest: +SKIP
      >>> state = jax.device_put(state, everywhere)  # doctest: +SKIP
    """
    if tasks_per_chunk is not None and tasks_per_chunk < 1:
        raise ValueError(f"tasks_per_chunk must be at least 1: got {tasks_per_chunk}.")

    def weighted_objective(meta: MetaParams, weights, keys: Key, tasks: Task):
        each = jax.vmap(objective, in_axes=(0, None, 0))(keys, meta, tasks)
        scale = jax.vmap(jnp.multiply)
        return jax.tree.map(lambda values: jnp.sum(scale(weights, values), 0), each)

    value_and_grad = jax.value_and_grad(weighted_objective, has_aux=True)
    value_and_grad = _in_chunks(value_and_grad, tasks_per_chunk)
    if mesh is not None:
        value_and_grad = _on_devices(value_and_grad, mesh)

    def estimate(key: Key, meta: MetaParams, tasks: Task):
        num_tasks = len(jax.tree.leaves(tasks)[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_tasks))
        return value_and_grad(meta, jnp.full(num_tasks, 1 / num_tasks), keys, tasks)

    return estimate


# (meta, weights, keys, tasks) to a tree of values summed over tasks with those weights.
SumOverTasks = Callable[[MetaParams, jax.Array, Key, Task], PyTree]


def _in_chunks(total: SumOverTasks, chunk: int | None) -> SumOverTasks:
    """The same sum, of so many tasks at a time."""

    def total_of_chunks(meta: MetaParams, *each):
        num_tasks = len(each[0])
        if chunk is None or chunk == num_tasks:
            return total(meta, *each)
        if num_tasks % chunk:
            raise ValueError(
                f"tasks_per_chunk={chunk} does not divide the {num_tasks} tasks of a "
                f"device; choose a divisor of {num_tasks}."
            )

        def add_chunk(so_far, each):
            return jax.tree.map(jnp.add, so_far, total(meta, *each)), None

        chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), each)
        shapes = jax.eval_shape(total, meta, *jax.tree.map(lambda x: x[0], chunks))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add_chunk, zeros, chunks)[0]

    return total_of_chunks


def _on_devices(total: SumOverTasks, mesh: Mesh) -> SumOverTasks:
    """The same sum, each device taking its share of the tasks."""

    def total_of_share(meta: MetaParams, *each):
        # Raveled, so that devices meet once a step rather than once a parameter.
        vector, unravel = ravel_pytree(total(meta, *each))
        return unravel(jax.lax.psum(vector, "tasks"))

    # Without varying-axes checks a gradient is that of the device's own tasks.
    everywhere, divided = PartitionSpec(), PartitionSpec("tasks")
    total_of_shares = jax.shard_map(
        total_of_share,
        mesh=mesh,
        in_specs=(everywhere, divided, divided, divided),
        out_specs=everywhere,
        check_vma=False,
    )

    def padded_total(meta: MetaParams, weights: jax.Array, keys: Key, tasks: Task):
        num_tasks, padding = len(weights), -len(weights) % mesh.size
        if padding:
            weights = jnp.pad(weights, (0, padding))
            again = jnp.arange(num_tasks + padding) % num_tasks
            keys, tasks = jax.tree.map(lambda x: x[again], (keys, tasks))
        return total_of_shares(meta, weights, keys, tasks)

    return padded_total
