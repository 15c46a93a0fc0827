"""From an objective on one task to a meta-gradient over many.

Here, and in training and evaluation, is where the task axis lives.
"""

from collections import Counter

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
from jax.sharding import Mesh
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
    Task,
)
from metajax.sharing import each_task as each_task
from metajax.sharing import over_tasks, weighted_sum
from metajax.sharing import task_mesh as task_mesh
from metajax.unrolls import persistent as persistent
from metajax.unrolls import truncated as truncated

_NOISE = 2**32 - 1  # No task has this number.


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

            return weighted_sum(weights, jax.vmap(one)(keys, tasks, probes))

        probes = {name: jnp.zeros(len(weights)) for name in backward.NAMES}
        value_and_grad = jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)
        (loss, metrics), (grads, measured) = value_and_grad(meta, probes)
        measured = {
            name: jnp.sum(weights * measured[name]) / times
            for name, times in used.items()
        }
        return (loss, metrics | measured), grads

    return over_tasks(total, tasks_per_chunk, mesh)


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
            values = weighted_sum(weights, each(keys, unravel(vector), tasks))
            return values[0], values

        gradient, values = jax.jacfwd(weighted, has_aux=True)(vector)
        return values, unravel(gradient)

    return over_tasks(total, tasks_per_chunk, mesh)


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
            return weighted_sum(weights, each(keys, meta, tasks))

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

    return over_tasks(total, tasks_per_chunk, mesh)


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

        return weighted_sum(weights, jax.vmap(one)(keys, tasks))

    return over_tasks(total, tasks_per_chunk, mesh)


def before(step: jax.Array, until: int, first: Estimator, then: Estimator) -> Estimator:
    """One estimator before an outer step, and another from there on.

    Args:
      step: the outer step; see `steps.scheduled_step`.
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
