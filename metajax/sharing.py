"""How the tasks of a step are shared: in chunks, one after another, and among devices."""

from collections.abc import Callable

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec

from metajax import contracts
from metajax.base import Estimator, Key, MetaParams, PyTree, Task
from metajax.streams import threefry
from metajax.tracing import trace_once


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


def each_task(
    function: Callable[[Key, MetaParams, PyTree], PyTree],
    *,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Key, MetaParams, PyTree], PyTree]:
    """What a function gives for each of many tasks, in chunks and on devices.

    Args:
      function: `(key, meta, task) -> data`, of one task.
      tasks_per_chunk: as in `backprop`.
      mesh: as in `backprop`; it must divide the tasks.

    Returns:
      `(key, meta, tasks) -> data`, leaves `[tasks, ...]` both, for `steps.Collected`.

    Raises:
      ValueError: when traced, if chunks or devices do not divide the tasks.
    """
    _check_chunk(tasks_per_chunk)

    def of_share(keys: Key, meta: MetaParams, tasks: PyTree) -> PyTree:
        def one(each):
            return function(each[0], meta, each[1])

        if tasks_per_chunk in (None, len(keys)):
            return jax.vmap(one)((keys, tasks))
        chunks = _chunks((keys, tasks), len(keys), tasks_per_chunk)
        found = jax.lax.map(jax.vmap(one), chunks)
        return jax.tree.map(lambda x: x.reshape(len(keys), *x.shape[2:]), found)

    def of_all(key: Key, meta: MetaParams, tasks: PyTree) -> PyTree:
        keys = _keys(threefry(key), len(jax.tree.leaves(tasks)[0]))
        if mesh is None:
            return of_share(keys, meta, tasks)
        if len(keys) % mesh.size:
            raise ValueError(
                f"{mesh.size} devices do not divide {len(keys)} tasks: choose a multiple "
                f"of {mesh.size}, or fewer devices."
            )
        everywhere, divided = PartitionSpec(), PartitionSpec("tasks")
        specs = {"in_specs": (divided, everywhere, divided), "out_specs": divided}
        return jax.shard_map(of_share, mesh=mesh, check_vma=False, **specs)(
            keys, meta, tasks
        )

    return of_all


# (key, meta, weights, keys, tasks) to ((loss, metrics), gradient), summed over tasks with
# those weights. The first key is that of the step, the others are of the tasks.
SumOverTasks = Callable[[Key, MetaParams, jax.Array, Key, Task], PyTree]
# Likewise, to such a sum and to what each task has of its own, leaves [tasks, ...].
SumAndEach = Callable[[Key, MetaParams, jax.Array, Key, PyTree], tuple[PyTree, PyTree]]


def weighted_sum(weights: jax.Array, each: PyTree) -> PyTree:
    """The sum over tasks of leaves `[tasks, ...]`, by their weights, `[tasks]`."""

    def total(x: jax.Array) -> jax.Array:
        # Integers and booleans, as of metrics that count, have a mean that is neither.
        real = jnp.issubdtype(x.dtype, jnp.inexact)
        scaled = jax.vmap(jnp.multiply)(weights.astype(x.dtype) if real else weights, x)
        return jnp.sum(scaled, 0)

    return jax.tree.map(total, each)


def over_tasks(
    total: SumOverTasks, tasks_per_chunk: int | None, mesh: Mesh | None
) -> Estimator:
    """An estimator by its sum over tasks, in chunks and on devices."""

    def alone(*arguments):
        return total(*arguments), ()

    shared = sum_and_each(alone, tasks_per_chunk, mesh)

    def estimate(key: Key, meta: MetaParams, tasks: Task):
        contracts.check_tasks(tasks)
        return shared(key, meta, tasks)[0]

    return estimate


def sum_and_each(
    total: SumAndEach, tasks_per_chunk: int | None, mesh: Mesh | None
) -> Callable[[Key, MetaParams, PyTree], tuple[PyTree, PyTree]]:
    """The mean over tasks, and what each has of its own, in chunks and on devices."""
    _check_chunk(tasks_per_chunk)
    total = _in_chunks(total, tasks_per_chunk)
    if mesh is not None:
        total = _on_devices(total, mesh)

    def of_all(key: Key, meta: MetaParams, tasks: PyTree):
        key, num_tasks = threefry(key), len(jax.tree.leaves(tasks)[0])
        keys = _keys(key, num_tasks)
        return total(key, meta, jnp.full(num_tasks, 1 / num_tasks), keys, tasks)

    return of_all


def _check_chunk(tasks_per_chunk: int | None) -> None:
    if tasks_per_chunk is not None and tasks_per_chunk < 1:
        raise ValueError(f"tasks_per_chunk must be at least 1: got {tasks_per_chunk}.")


def _keys(key: Key, num_tasks: int) -> Key:
    """One key a task."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_tasks))


def _in_chunks(total: SumAndEach, chunk: int | None) -> SumAndEach:
    """The same sum, of so many tasks at a time."""

    def total_of_chunks(key: Key, meta: MetaParams, *each):
        num_tasks = len(each[0])
        if chunk is None or chunk == num_tasks:
            return total(key, meta, *each)
        chunks = _chunks(each, num_tasks, chunk)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), chunks)
        total_of_chunk, shapes = trace_once(total, key, meta, *one)

        def add_chunk(so_far, each):
            added, own = total_of_chunk(key, meta, *each)
            return jax.tree.map(jnp.add, so_far, added), own

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[0])
        summed, own = jax.lax.scan(add_chunk, zeros, chunks)
        return summed, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), own)

    return total_of_chunks


def _chunks(each: PyTree, num_tasks: int, chunk: int) -> PyTree:
    """Leaves `[tasks, ...]` as `[chunks, chunk, ...]`, of which some may be empty."""
    if num_tasks % chunk:
        raise ValueError(
            f"tasks_per_chunk={chunk} does not divide the {num_tasks} tasks of a device; "
            f"choose a divisor of {num_tasks}."
        )
    number = num_tasks // chunk
    return jax.tree.map(lambda x: x.reshape(number, chunk, *x.shape[1:]), each)


def _on_devices(total: SumAndEach, mesh: Mesh) -> SumAndEach:
    """The same sum, each device taking its share of the tasks."""

    def total_of_share(key: Key, meta: MetaParams, *each):
        # Raveled, so that devices meet once a step rather than once a parameter.
        summed, own = total(key, meta, *each)
        vector, unravel = ravel_pytree(summed)
        return unravel(jax.lax.psum(vector, "tasks")), own

    # Without varying-axes checks a gradient is that of the device's own tasks.
    everywhere, divided = PartitionSpec(), PartitionSpec("tasks")
    total_of_shares = jax.shard_map(
        total_of_share,
        mesh=mesh,
        in_specs=(everywhere, everywhere, divided, divided, divided),
        out_specs=(everywhere, divided),
        check_vma=False,
    )

    def padded_total(
        key: Key, meta: MetaParams, weights: jax.Array, keys: Key, tasks: Task
    ):
        num_tasks, padding = len(weights), -len(weights) % mesh.size
        if padding:
            weights = jnp.pad(weights, (0, padding))
            again = jnp.arange(num_tasks + padding) % num_tasks
            keys, tasks = jax.tree.map(lambda x: x[again], (keys, tasks))
        summed, own = total_of_shares(key, meta, weights, keys, tasks)
        return summed, jax.tree.map(lambda x: x[:num_tasks], own)

    return padded_total
