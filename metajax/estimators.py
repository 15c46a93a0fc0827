"""From an objective on one task to a meta-gradient over many.

Here, and in training and evaluation, is where the task axis lives.
"""

from collections import Counter
from collections.abc import Callable

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec
import optax

from metajax import backward, contracts, objectives
from metajax.base import (
    Adapted,
    Calibrated,
    Estimator,
    Key,
    Loss,
    MetaLearner,
    MetaParams,
    Objective,
    Params,
    PyTree,
    Task,
)
from metajax.streams import threefry
from metajax.tracing import trace_once

_NOISE = 2**32 - 1  # No task has this number.


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
    objective = contracts.checked(objective)

    def total(key: Key, meta: MetaParams, weights, keys: Key, tasks: Task):
        del key  # Tasks have their own.
        used = Counter()

        def weighted(meta: MetaParams, probes):
            def one(key, task, probes):
                with backward.collecting(probes, used):
                    return objective(key, meta, task)

            return _weighted_sum(weights, jax.vmap(one)(keys, tasks, probes))

        probes = {name: jnp.zeros(len(weights)) for name in backward.NAMES}
        value_and_grad = jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)
        (loss, metrics), (grads, measured) = value_and_grad(meta, probes)
        measured = {
            name: jnp.sum(weights * measured[name]) / times
            for name, times in used.items()
        }
        return (loss, metrics | measured), grads

    return _over_tasks(total, tasks_per_chunk, mesh)


def forward_mode(
    objective: Objective,
    *,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Estimator:
    """The gradient of the mean objective over tasks, by forward mode.

        d/d meta  mean_i objective(key_i, meta, task_i)

    The same as `backprop` to rounding, at the price of one evaluation, in time and
    memory, for each number in the meta-parameters, but without a memory of inner steps:
    for a handful of hyperparameters and a long inner loop. Adjoints with a rule for
    reverse mode alone (`mixed_mode`, `implicit`) cannot be used under it.

    Args:
      objective: what one task costs.
      tasks_per_chunk: as in `backprop`.
      mesh: as in `backprop`.

    Returns:
      An estimator.

    Source:
      Franceschi et al. 2017 (arXiv 1703.01785).
    """
    objective = contracts.checked(objective)

    def total(key: Key, meta: MetaParams, weights, keys: Key, tasks: Task):
        del key
        vector, unravel = ravel_pytree(meta)

        def weighted(vector):
            each = jax.vmap(objective, in_axes=(0, None, 0))
            values = _weighted_sum(weights, each(keys, unravel(vector), tasks))
            return values[0], values

        gradient, values = jax.jacfwd(weighted, has_aux=True)(vector)
        return values, unravel(gradient)

    return _over_tasks(total, tasks_per_chunk, mesh)


def evolution(
    objective: Objective,
    *,
    num_pairs: int,
    std: float,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Estimator:
    """The gradient of the smoothed objective over tasks, by evaluations alone.

        mean_j noise_j * (f(meta + std * noise_j) - f(meta - std * noise_j)) / (2 std)

    where f is the mean objective over tasks and noise_j is standard normal: an unbiased
    estimate of the gradient of E[f(meta + std * noise)]. All tasks and both signs of a
    pair share the noise, and the tasks their keys. Nothing is differentiated: steps,
    losses and metrics need not be smooth, and memory is that of adaptation.

    Args:
      objective: what one task costs.
      num_pairs: antithetic pairs, evaluated one after another.
      std: standard deviation of the noise.
      tasks_per_chunk: as in `backprop`.
      mesh: as in `backprop`.

    Returns:
      An estimator. Loss and metrics are means over the pairs.

    Raises:
      ValueError: if `num_pairs` or `std` is not positive.

    Source:
      Salimans et al. 2017 (arXiv 1703.03864); Song et al. 2020 (ES-MAML,
      arXiv 1910.01215).
    """
    if num_pairs < 1 or not std > 0:
        raise ValueError(
            f"evolution: num_pairs must be at least 1 and std positive: got {num_pairs}, "
            f"{std}."
        )

    objective = contracts.checked(objective)

    def total(key: Key, meta: MetaParams, weights, keys: Key, tasks: Task):
        def evaluate(meta):
            each = jax.vmap(objective, in_axes=(0, None, 0))
            return _weighted_sum(weights, each(keys, meta, tasks))

        def pair(key):
            noise = optax.tree.random_like(key, meta, jax.random.normal)
            above = evaluate(optax.tree.add_scale(meta, std, noise))
            below = evaluate(optax.tree.add_scale(meta, -std, noise))
            slope = (above[0] - below[0]) / (2 * std)
            values = optax.tree.scale(0.5, optax.tree.add(above, below))
            return values, optax.tree.scale(slope, noise)

        def add_pair(so_far, index):
            each = pair(jax.random.fold_in(jax.random.fold_in(key, _NOISE), index))
            return optax.tree.add_scale(so_far, 1 / num_pairs, each), None

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(pair, key)
        )
        return jax.lax.scan(add_pair, zeros, jnp.arange(num_pairs))[0]

    return _over_tasks(total, tasks_per_chunk, mesh)


def displacement(
    learner: MetaLearner,
    loss: Loss,
    *,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
    **metrics: Loss,
) -> Estimator:
    """How far adaptation moves the meta-parameters, in place of a gradient: Reptile.

        meta - mean_i adapt(key_i, meta, support_i)

    An outer `optax.sgd(rate)` then moves them by `rate` of the way towards the adapted
    ones: with one task a step this is the serial form of Reptile, with several the
    batched one.

    Args:
      learner: a meta-learner whose adapted parameters are like its meta-parameters.
      loss: what is reported of the query batches; it has no part in the estimate.
      tasks_per_chunk: as in `backprop`; that many adapted parameters are held.
      mesh: as in `backprop`.
      **metrics: further losses to report by name.

    Returns:
      An estimator.

    Raises:
      ValueError: when traced, if the learner adapts anything else.

    Source:
      Nichol, Achiam, Schulman 2018 (arXiv 1803.02999), algorithms 1 and 2.
    """
    judge = objectives.adapt_and_judge(learner, loss, **metrics)

    def total(key: Key, meta: MetaParams, weights, keys: Key, tasks: Task):
        del key

        def one(key, task):
            adapted, values = judge(key, meta, task)
            adapted = _without_statistics(adapted)
            if jax.tree.map(jnp.shape, adapted) != jax.tree.map(jnp.shape, meta):
                raise ValueError(
                    "displacement needs a learner whose adapted parameters are like its "
                    "meta-parameters, such as reptile or fomaml: use backprop here."
                )
            return (values["loss"], values), optax.tree.sub(meta, adapted)

        return _weighted_sum(weights, jax.vmap(one)(keys, tasks))

    return _over_tasks(total, tasks_per_chunk, mesh)


def before(step: jax.Array, until: int, first: Estimator, then: Estimator) -> Estimator:
    """One estimator before an outer step, and another from there on.

    Args:
      step: the outer step; see `training.scheduled_step`.
      until: the outer step from which `then` is used.
      first: such as first-order MAML, for the annealing of the derivative's order.
      then: one with metrics of the same names.

    Returns:
      An estimator, which runs one of the two.

    Source:
      Antoniou, Edwards, Storkey 2019 (arXiv 1810.09502), section 4.
    """

    def estimate(key: Key, meta: MetaParams, tasks: Task):
        return jax.lax.cond(step < until, first, then, key, meta, tasks)

    return estimate


def _without_statistics(adapted: Adapted) -> Params:
    def is_calibrated(x):
        return isinstance(x, Calibrated)

    return jax.tree.map(
        lambda x: x.params if is_calibrated(x) else x, adapted, is_leaf=is_calibrated
    )


# (key, meta, weights, keys, tasks) to ((loss, metrics), gradient), summed over tasks with
# those weights. The first key is that of the step, the others are of the tasks.
SumOverTasks = Callable[[Key, MetaParams, jax.Array, Key, Task], PyTree]


def _weighted_sum(weights: jax.Array, each: PyTree) -> PyTree:
    def weighted_sum(x):
        # Integers and booleans, as of metrics that count, have a mean that is neither.
        real = jnp.issubdtype(x.dtype, jnp.inexact)
        scaled = jax.vmap(jnp.multiply)(weights.astype(x.dtype) if real else weights, x)
        return jnp.sum(scaled, 0)

    return jax.tree.map(weighted_sum, each)


def _over_tasks(
    total: SumOverTasks, tasks_per_chunk: int | None, mesh: Mesh | None
) -> Estimator:
    """An estimator by its sum over tasks, in chunks and on devices."""
    if tasks_per_chunk is not None and tasks_per_chunk < 1:
        raise ValueError(f"tasks_per_chunk must be at least 1: got {tasks_per_chunk}.")
    total = _in_chunks(total, tasks_per_chunk)
    if mesh is not None:
        total = _on_devices(total, mesh)

    def estimate(key: Key, meta: MetaParams, tasks: Task):
        contracts.check_tasks(tasks)
        key, num_tasks = threefry(key), len(jax.tree.leaves(tasks)[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_tasks))
        return total(key, meta, jnp.full(num_tasks, 1 / num_tasks), keys, tasks)

    return estimate


def _in_chunks(total: SumOverTasks, chunk: int | None) -> SumOverTasks:
    """The same sum, of so many tasks at a time."""

    def total_of_chunks(key: Key, meta: MetaParams, *each):
        num_tasks = len(each[0])
        if chunk is None or chunk == num_tasks:
            return total(key, meta, *each)
        if num_tasks % chunk:
            raise ValueError(
                f"tasks_per_chunk={chunk} does not divide the {num_tasks} tasks of a "
                f"device; choose a divisor of {num_tasks}."
            )

        chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), each)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), chunks)
        total_of_chunk, shapes = trace_once(total, key, meta, *one)

        def add_chunk(so_far, each):
            added = total_of_chunk(key, meta, *each)
            return jax.tree.map(jnp.add, so_far, added), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add_chunk, zeros, chunks)[0]

    return total_of_chunks


def _on_devices(total: SumOverTasks, mesh: Mesh) -> SumOverTasks:
    """The same sum, each device taking its share of the tasks."""

    def total_of_share(key: Key, meta: MetaParams, *each):
        # Raveled, so that devices meet once a step rather than once a parameter.
        vector, unravel = ravel_pytree(total(key, meta, *each))
        return unravel(jax.lax.psum(vector, "tasks"))

    # Without varying-axes checks a gradient is that of the device's own tasks.
    everywhere, divided = PartitionSpec(), PartitionSpec("tasks")
    total_of_shares = jax.shard_map(
        total_of_share,
        mesh=mesh,
        in_specs=(everywhere, everywhere, divided, divided, divided),
        out_specs=everywhere,
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
        return total_of_shares(key, meta, weights, keys, tasks)

    return padded_total
