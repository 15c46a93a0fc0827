"""MetaOptNet: a convex classifier on learned features, differentiated at its optimum.

    weights = argmin  sum_i loss(features[i] weights, targets[i])
                      + regularization / 2 |weights|**2
    logits = exp(log_scale) * embed(params, query) weights

Lee, Maji, Ravichandran, Soatto 2019, "Meta-Learning with Differentiable Convex
Optimization", arXiv 1904.03758, section 3.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import Key, MetaLearner, Model, Params, PyTree
from metajax.learners import fitting_head

_HEADS = {"logistic": heads.logistic, "svm": heads.support_vectors}


class Scaled(NamedTuple):
    """What is meta-learned: an embedding, and how much its classifier's outputs count."""

    params: Params
    log_scale: jax.Array


def metaoptnet(
    model: Model,
    ways: int,
    *,
    regularization: float = 1.0,
    head: Literal["logistic", "svm"] = "logistic",
) -> MetaLearner:
    """MetaOptNet with a multinomial logistic regression, or a support vector machine.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task. No param depends on them.
      regularization: of the classifier's weights.
      head: "logistic" has the cross-entropy for a loss, "svm" the hinge of
        `heads.support_vectors`, which needs `pip install 'metajax[svm]'`.

    Returns:
      A meta-learner whose meta-parameters are `Scaled`, and whose adapted ones are
      `learners.Fitted` with the weights. Its outputs are logits, `[queries, ways]`.

    Raises:
      ValueError: if the regularisation is not positive, or if there is no such head.

    Note:
      The paper's best head is the support vector machine, with regularization 10; its
      ridge regression is `r2d2`, with a regularisation that is fixed.
    """
    if head not in _HEADS:
        raise ValueError(f"Unknown head {head!r}: choose one of {', '.join(_HEADS)}.")
    if not regularization > 0:
        raise ValueError(
            f"metaoptnet: regularization must be positive: got {regularization}."
        )

    def init(key: Key, inputs: PyTree) -> Scaled:
        return Scaled(model.init(key, inputs), jnp.float32(0))

    def fit(meta: Scaled, features: jax.Array, members: jax.Array) -> jax.Array:
        del meta
        return _HEADS[head](features, members, regularization)

    def logits(meta: Scaled, weights: jax.Array, features: jax.Array) -> jax.Array:
        return jnp.exp(meta.log_scale) * (features @ weights)

    return fitting_head(model, ways, fit, logits, init)
