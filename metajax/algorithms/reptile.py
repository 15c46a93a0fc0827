"""Reptile: move the initialisation towards where ordinary training on each task leads.

    adapted = params after num_steps of an optimizer on minibatches of the support
    params <- params + outer_rate * mean over tasks of (adapted - params)

Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms",
arXiv 1803.02999, algorithms 1 and 2. The second line is `estimators.displacement`.
"""

import jax
import jax.numpy as jnp
import optax

from metajax import adjoints, losses
from metajax.base import Batch, Key, Loss, MetaLearner, Model, Params
from metajax.learners import adapting_params


def reptile(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    batch_size: int | None = None,
) -> MetaLearner:
    """Reptile: ordinary training on the support batch, to be used with `displacement`.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation. It starts afresh for
        each task.
      num_steps: inner steps.
      batch_size: support examples a step, drawn without replacement until all were
        seen; None, or more than there are, takes all.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them. Under `backprop` it is first-order
      MAML on minibatches.

    Raises:
      ValueError: if the batch size is not positive.

    Note:
      The authors' code keeps the inner Adam's second moments from one task to the next.

    Example:
      >>> learner = reptile(  # doctest: +SKIP
      ...     model, loss, optax.adam(1e-3, b1=0), num_steps=5, batch_size=10
      ... )
      >>> estimator = estimators.displacement(learner, loss)  # doctest: +SKIP
      >>> step = train_step(estimator, optax.sgd(1.0))  # doctest: +SKIP
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"reptile: batch_size must be at least 1: got {batch_size}.")
    support_loss = losses.of_model(model, loss)

    def minibatch_loss(params: Params, support: Batch, chosen: jax.Array) -> jax.Array:
        return support_loss(params, jax.tree.map(lambda x: x[chosen], support))

    def adapt(key: Key, meta: Params, support: Batch) -> Params:
        size = len(jax.tree.leaves(support)[0])
        if batch_size is None or batch_size >= size:
            return first_order(support_loss, optimizer, num_steps)(meta, support)
        chosen = _minibatches(key, size, batch_size, num_steps)
        solve = first_order(minibatch_loss, optimizer, num_steps)
        return solve(meta, support, chosen)

    first_order = adjoints.unroll(last=0)
    return adapting_params(model, adapt)


def _minibatches(key: Key, size: int, batch_size: int, number: int) -> jax.Array:
    """Indices of examples, `[number, batch_size]`: one random order after another."""
    rounds = -(-number * batch_size // size)
    keys = jax.random.split(key, max(rounds, 1))
    orders = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
    return jnp.ravel(orders)[: number * batch_size].reshape(number, batch_size)
