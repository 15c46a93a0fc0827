"""Reptile: move the initialisation towards where ordinary training on each task leads.

    adapted = params after num_steps of an optimizer on minibatches of the support
    params <- params + outer_rate * mean over tasks of (adapted - params)

Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms",
arXiv 1803.02999, algorithms 1 and 2. The second line is `estimators.displacement`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import contracts, losses
from metajax.adjoints import updates
from metajax.base import Batch, Key, Loss, MetaLearner, Model, Params, PyTree
from metajax.learners import adapting_params


class Trained(NamedTuple):
    """Params, and the state of the optimizer that has trained them."""

    params: Params
    state: PyTree  # With floats for integers, so that tasks have a mean.


def reptile(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    batch_size: int | None = None,
    keep_state: bool = False,
) -> MetaLearner:
    """Reptile: ordinary training on the support batch, to be used with `displacement`.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation.
      num_steps: inner steps.
      batch_size: support examples a step, drawn without replacement until all were
        seen; None, or more than there are, takes all.
      keep_state: whether the state of the inner optimizer is meta-learned as the params
        are, so that training on each task, in testing too, goes on from what former
        tasks have made of it; by default it starts afresh.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them; with `keep_state` both are in a
      `Trained`. Without it, it is under `backprop` first-order MAML on minibatches.

    Raises:
      ValueError: if the batch size is not positive, or the number of steps negative.

    Note:
      The authors' code keeps the state of Adam, and hands it from one task to the next.
      Here the tasks of an outer step all start from one state, which then moves as the
      params do. That takes an outer `optax.sgd` of a rate of at most 1: beyond the
      states of the tasks, mean squares may be negative. The norm that `train_step`
      reports is of both, and mostly of the count of inner steps.

    Example:
      >>> learner = reptile(  # doctest: +SKIP
      ...     model, loss, optax.adam(1e-3, b1=0), num_steps=5, batch_size=10
      ... )
      >>> estimator = estimators.displacement(learner, loss)  # doctest: +SKIP
      >>> step = train_step(estimator, optax.sgd(1.0))  # doctest: +SKIP
    """
    _check(optimizer, num_steps, batch_size)
    support_loss = losses.of_model(model, loss)

    def train(key: Key, start: Trained, support: Batch) -> Trained:
        def step(trained: Trained, chosen: jax.Array | None):
            batch = support
            if chosen is not None:
                batch = jax.tree.map(lambda x: x[chosen], support)
            value, grads = jax.lax.stop_gradient(
                jax.value_and_grad(support_loss)(trained.params, batch)
            )
            moves, state = updates.update(
                optimizer,
                grads,
                trained.state,
                trained.params,
                value if takes else None,
            )
            return Trained(optax.apply_updates(trained.params, moves), state), None

        takes = updates.takes_value(optimizer, start.params)
        size = len(jax.tree.leaves(support)[0])
        chosen = None
        if batch_size is not None and batch_size < size:
            chosen = _minibatches(key, size, batch_size, num_steps)
        # A compiled loop costs time at each step, steps in a row cost time to compile.
        in_a_row = 0 < num_steps <= 8
        return jax.lax.scan(step, start, chosen, num_steps, unroll=in_a_row)[0]

    def init(key: Key, inputs: PyTree) -> Trained:
        params = model.init(key, inputs)
        return Trained(params, jax.tree.map(_as_float, optimizer.init(params)))

    def adapt(key: Key, meta: Trained, support: Batch) -> Trained:
        params, state = train(key, meta, support)
        return Trained(model.calibrate(params, support.shown), state)

    def predict(meta: Trained, adapted: Trained, inputs: PyTree) -> PyTree:
        del meta
        return model.apply(adapted.params, inputs)

    if keep_state:
        return MetaLearner(init, adapt, predict)

    def adapt_afresh(key: Key, meta: Params, support: Batch) -> Params:
        return train(key, Trained(meta, optimizer.init(meta)), support).params

    return adapting_params(model, adapt_afresh)


def _check(
    optimizer: optax.GradientTransformation, num_steps: int, batch_size: int | None
) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"reptile: batch_size must be at least 1: got {batch_size}.")
    contracts.check_optimizer(optimizer)
    contracts.check_num_steps(num_steps)
    if num_steps < 0:
        raise ValueError(f"reptile: num_steps must be at least 0: got {num_steps}.")


def _as_float(leaf: jax.Array) -> jax.Array:
    inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return leaf if inexact else jnp.asarray(leaf, jnp.float32)


def _minibatches(key: Key, size: int, batch_size: int, number: int) -> jax.Array:
    """Indices of examples, `[number, batch_size]`: one random order after another."""
    rounds = -(-number * batch_size // size)
    keys = jax.random.split(key, max(rounds, 1))
    orders = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
    return jnp.ravel(orders)[: number * batch_size].reshape(number, batch_size)
