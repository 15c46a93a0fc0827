"""One outer step: estimate the meta-gradient, update the meta-parameters."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import contracts, trees
from metajax.adjoints import updates
from metajax.base import Carrying, Estimator, Key, MetaParams, Metrics, PyTree, Task
from metajax.streams import step_keys


class TrainState(NamedTuple):
    """What meta-training needs to go on: save it, and resume from it."""

    step: jax.Array  # Outer steps taken, int32.
    key: Key  # Fixes the stream of tasks; never changes.
    meta: MetaParams
    opt_state: optax.OptState
    # Steps in a row, up to here, that were not finite.
    skipped: jax.Array | np.int32 = np.int32(0)
    carried: PyTree = ()  # What an estimator with a memory keeps of its tasks.


TrainStep = Callable[[TrainState, Task], tuple[TrainState, Metrics]]


class Collected(NamedTuple):
    """Data that a step collects with its parameters, and then updates them by.

    Attributes:
      collect: `(key, meta, tasks) -> data`, leaves `[tasks, ...]` both, such as
        `estimators.each_task(...)` of what one task gives.
      epochs: how often all of it is gone through.
      parts: updates an epoch, each by a part of the tasks; it divides their number.
      prepare: `data -> data`, once, of all tasks together.
    """

    collect: Callable[[Key, MetaParams, PyTree], PyTree]
    epochs: int = 1
    parts: int = 1
    prepare: Callable[[PyTree], PyTree] = lambda data: data


def train_step(
    meta_grad: Estimator | Carrying,
    optimizer: optax.GradientTransformation,
    *,
    max_skipped: int = 10,
    collected: Collected | None = None,
) -> TrainStep:
    """One outer step: estimate the meta-gradient, update the meta-parameters.

    A step whose loss, or the norm of whose gradient or update, is not finite changes no
    parameter and no state of the optimizer. It is skipped, and training goes on with the
    next tasks; but after so many in a row the state stays at the step that failed.

    Args:
      meta_grad: an estimator of the meta-gradient; one with a memory needs a state that
        `training.begin` has made for it.
      optimizer: the outer optimizer, any optax transformation.
      max_skipped: how many steps in a row may be skipped.
      collected: if given, the estimator gets what is collected in the tasks rather than
        the tasks, and a step is all updates by it.

    Returns:
      A pure function `(state, tasks) -> (state, metrics)`. The metrics are those of the
      objective, averaged over tasks, `loss`, if it has none of this name, `grad_norm`, the
      global norm of the meta-gradient, and `skipped`, which is 1 for a step that was not
      finite and else 0. Of several updates they are means.

    Raises:
      ValueError: if `max_skipped` is negative, `optimizer` is none, there are no epochs
        or parts, or data is to be collected for an estimator with a memory; when traced,
        if the state is of another optimizer, the optimizer evaluates a function, or the
        parts do not divide the tasks.

    Note:
      `optax.apply_if_finite` applies what is not finite after its limit; here it never
      reaches the parameters.
    """
    if max_skipped < 0:
        raise ValueError(f"max_skipped must be at least 0: got {max_skipped}.")
    if collected is not None and min(collected.epochs, collected.parts) < 1:
        raise ValueError(
            "Collected: epochs and parts must be at least 1: got "
            f"{collected.epochs} and {collected.parts}."
        )
    if collected is not None and isinstance(meta_grad, Carrying):
        raise ValueError(
            "An estimator with a memory sees its own tasks again and again: it has no use "
            "for Collected data."
        )
    contracts.check_optimizer(optimizer)
    update = _update(meta_grad, optimizer)
    if collected is not None:
        update = _updates(update, collected)

    def step(state: TrainState, tasks: Task) -> tuple[TrainState, Metrics]:
        _, key = step_keys(state.key, state.step)
        contracts.check_opt_state(optimizer, state.meta, state.opt_state)
        trained = state.meta, state.opt_state, state.carried
        (meta, opt_state, carried), (norms, metrics) = update(key, trained, tasks)
        finite = jnp.isfinite(norms)
        after = TrainState(
            *(state.step + 1, state.key, meta, opt_state),
            *(jnp.zeros_like(state.skipped), carried),
        )
        passed = (state.skipped < max_skipped).astype(jnp.int32)
        over = state._replace(
            step=state.step + passed,
            skipped=state.skipped + passed,
            # In which tasks that were not finite are to begin anew.
            carried=trees.select(passed > 0, carried, state.carried),
        )
        metrics = metrics | {"skipped": jnp.where(finite, 0.0, 1.0)}
        return trees.select(finite, after, over), metrics

    return step


# (key, (meta, opt_state, carried), tasks) to those after it, a number that is finite if
# all is, and metrics.
Trained = tuple[MetaParams, optax.OptState, PyTree]
Update = Callable[[Key, Trained, PyTree], tuple[Trained, tuple[jax.Array, Metrics]]]


def _update(
    meta_grad: Estimator | Carrying, optimizer: optax.GradientTransformation
) -> Update:
    def update(key: Key, trained: Trained, tasks: PyTree):
        meta, opt_state, carried = trained
        if isinstance(meta_grad, Carrying):
            estimate, carried = meta_grad.estimate(key, meta, tasks, carried)
        else:
            estimate = meta_grad(key, meta, tasks)
        (loss, metrics), grads = contracts.check_estimate(estimate)
        value = loss if updates.takes_value(optimizer, meta) else None
        moves, opt_state = updates.update(optimizer, grads, opt_state, meta, value)
        grad_norm = optax.tree.norm(grads)
        norms = loss + grad_norm + optax.tree.norm(moves)
        metrics = {"loss": loss} | metrics | {"grad_norm": grad_norm}
        trained = optax.apply_updates(meta, moves), opt_state, carried
        return trained, (norms, metrics)

    return update


def _updates(update: Update, collected: Collected) -> Update:
    """All updates by what is collected in the tasks of a step."""
    epochs, parts = collected.epochs, collected.parts

    def updates_by_parts(key: Key, trained: Trained, tasks: PyTree):
        num_tasks = len(jax.tree.leaves(tasks)[0])
        if num_tasks % parts:
            raise ValueError(
                f"Collected: parts={parts} does not divide the {num_tasks} tasks of a "
                f"step; choose a divisor of {num_tasks}."
            )
        collect_key, key = jax.random.split(key)
        data = collected.prepare(collected.collect(collect_key, trained[0], tasks))

        def part(x: jax.Array) -> jax.Array:
            # Neighbours go to different parts, so that devices share each of them.
            return jnp.swapaxes(
                x.reshape(num_tasks // parts, parts, *x.shape[1:]), 0, 1
            )

        data = jax.tree.map(part, data)

        def one(trained: Trained, index: jax.Array):
            own = jax.tree.map(lambda x: x[index % parts], data)
            return update(jax.random.fold_in(key, index), trained, own)

        trained, each = jax.lax.scan(one, trained, jnp.arange(epochs * parts))
        return trained, jax.tree.map(lambda x: jnp.mean(x, axis=0), each)

    return updates_by_parts


def scheduled_step(
    meta_grad_at: Callable[[jax.Array], Estimator | Carrying],
    optimizer: optax.GradientTransformation,
    *,
    max_skipped: int = 10,
    collected: Collected | None = None,
) -> TrainStep:
    """One outer step, of an estimator that changes as training goes on.

    Args:
      meta_grad_at: from the outer step, an int32 scalar that is traced, to an estimator
        of the meta-gradient: a weight in its loss may fall with the step, or
        `estimators.before` may choose between two.
      optimizer: the outer optimizer, any optax transformation.
      max_skipped: as in `train_step`.
      collected: as in `train_step`.

    Returns:
      As `train_step`.

    Example:
      The multi-step loss of MAML++ over five inner steps:

      >>> def meta_grad_at(step):  # doctest: +SKIP
      ...     weights = step_weights(step, num_steps=5, anneal_steps=5000)
      ...     objective = multi_step_loss(learner, loss, weights)
      ...     return estimators.backprop(objective)
      >>> step = scheduled_step(meta_grad_at, optax.adam(1e-3))  # doctest: +SKIP
    """

    def step(state: TrainState, tasks: Task) -> tuple[TrainState, Metrics]:
        meta_grad = meta_grad_at(state.step)
        step_of = partial(train_step, max_skipped=max_skipped, collected=collected)
        return step_of(meta_grad, optimizer)(state, tasks)

    return step
