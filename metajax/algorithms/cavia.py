"""CAVIA: a few context parameters adapt, the network is shared by all tasks.

    context[0] = 0
    context[t+1] = context[t] - rate * d/d context  loss(params, context[t], support)
    minimise over params:  mean over tasks of loss(params, context[num_steps], query)

Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, "Fast Context Adaptation via
Meta-Learning", arXiv 1810.03642, section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import adjoints, contracts
from metajax.base import (
    Adjoint,
    Batch,
    Key,
    Loss,
    Masked,
    MetaLearner,
    Model,
    Params,
    PyTree,
)


class InContext(NamedTuple):
    """What CAVIA knows of a task: the context, and the params that are used with it."""

    context: jax.Array  # [num_context]
    params: Params  # The shared ones, as `model.calibrate` leaves them.


def cavia(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    num_context: int,
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """CAVIA: adapts a context vector that the model takes beside its inputs.

    Args:
      model: a model of pairs `(inputs, context)`, with the context `[num_context]` the
        same for all inputs: `mlp`, which puts it beside each, or `conv4`, which scales
        and shifts the features of a layer by it.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation.
      num_steps: inner steps.
      num_context: context parameters.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      `InContext`.

    Raises:
      ValueError: if `num_context` is not positive.

    Note:
      The authors' code clips the meta-gradient of each task to +-10 by value.
    """
    if num_context < 1:
        raise ValueError(f"cavia: num_context must be at least 1: got {num_context}.")
    contracts.check_models(model)
    contracts.check_losses(loss)

    def context_loss(context: jax.Array, params_and_batch: tuple[Params, Batch]):
        params, batch = params_and_batch
        outputs = model.apply(params, _with(context, batch.shown))
        return loss(outputs, batch.targets, batch.mask)

    solve = (adjoint or adjoints.unroll())(context_loss, optimizer, num_steps)

    def init(key: Key, inputs: PyTree) -> Params:
        return model.init(key, (inputs, jnp.zeros(num_context)))

    def adapt(key: Key, meta: Params, support: Batch) -> InContext:
        del key  # The inner loop is deterministic.
        zeros = jnp.zeros(num_context, jnp.result_type(*jax.tree.leaves(meta)))
        context = solve(zeros, (meta, support))
        params = model.calibrate(meta, _with(context, support.shown))
        return InContext(context, params)

    def predict(meta: Params, adapted: InContext, inputs: PyTree) -> PyTree:
        del meta
        return model.apply(adapted.params, _with(adapted.context, inputs))

    return MetaLearner(init, adapt, predict)


def _with(context: jax.Array, inputs: PyTree) -> PyTree:
    if isinstance(inputs, Masked):
        return Masked((inputs.inputs, context), inputs.mask)
    return inputs, context
