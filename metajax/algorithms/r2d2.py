"""R2D2: a ridge regression on learned features, solved in closed form.

    weights = features^T (features features^T + exp(log_ridge) I)^-1 one_hot(targets)
    logits = exp(log_scale) * embed(params, query) weights

Bertinetto, Henriques, Torr, Vedaldi 2019, "Meta-learning with differentiable closed-form
solvers", arXiv 1805.08136, section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import Key, MetaLearner, Model, Params, PyTree
from metajax.learners import fitting_head, scaled_init


class Ridge(NamedTuple):
    """What is meta-learned."""

    params: Params
    log_ridge: jax.Array  # Logarithm of the regularisation.
    log_scale: jax.Array  # Of the logits: a regression's outputs are none.


def r2d2(model: Model, ways: int, *, scale: float = 10.0) -> MetaLearner:
    """R2D2: adapts a linear head by ridge regression.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task. No param depends on them.
      scale: what outputs are multiplied by at first; it is learned.

    Returns:
      A meta-learner whose meta-parameters are `Ridge`, and whose adapted ones are
      `learners.Fitted` with the weights. Its outputs are logits, `[queries, ways]`.

    Raises:
      ValueError: if the scale is not positive.

    Note:
      Regularisation and scale are learned as logarithms, so that they stay positive. The
      paper also learns a shift of all logits, which no softmax can tell.
    """
    begin = scaled_init(model, scale)

    def init(key: Key, inputs: PyTree) -> Ridge:
        params, log_scale = begin(key, inputs)
        return Ridge(params, jnp.float32(0), log_scale)

    def fit(meta: Ridge, features: jax.Array, members: jax.Array) -> jax.Array:
        return heads.ridge(features, members, jnp.exp(meta.log_ridge))

    def logits(meta: Ridge, weights: jax.Array, features: jax.Array) -> jax.Array:
        return jnp.exp(meta.log_scale) * (features @ weights)

    return fitting_head(model, ways, fit, logits, init)
