"""R2D2: a ridge regression on learned features, solved in closed form.

    weights = features^T (features features^T + exp(log_ridge) I)^-1 one_hot(targets)
    logits = scale * embed(params, query) weights

Bertinetto, Henriques, Torr, Vedaldi 2019, "Meta-learning with differentiable closed-form
solvers", arXiv 1805.08136, section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import Key, MetaLearner, Model, Params, PyTree
from metajax.learners import fitting_head


class Ridge(NamedTuple):
    """What is meta-learned."""

    params: Params
    log_ridge: jax.Array  # Logarithm of the regularisation.
    scale: jax.Array  # Of the logits: a regression's outputs are no logits.


def r2d2(model: Model, ways: int) -> MetaLearner:
    """R2D2: adapts a linear head by ridge regression.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task. No param depends on them.

    Returns:
      A meta-learner whose meta-parameters are `Ridge`, and whose adapted ones are
      `learners.Fitted` with the weights. Its outputs are logits, `[queries, ways]`.

    Note:
      The regularisation is learned as a logarithm, so that it stays positive. The paper
      also learns a shift of all logits, which no softmax can tell.
    """

    def init(key: Key, inputs: PyTree) -> Ridge:
        return Ridge(model.init(key, inputs), jnp.float32(0), jnp.float32(1))

    def fit(meta: Ridge, features: jax.Array, members: jax.Array) -> jax.Array:
        return heads.ridge(features, members, jnp.exp(meta.log_ridge))

    def logits(meta: Ridge, weights: jax.Array, features: jax.Array) -> jax.Array:
        return meta.scale * (features @ weights)

    return fitting_head(model, ways, fit, logits, init)
