"""MetaOptNet: a convex classifier on learned features, differentiated at its optimum.

    weights = argmin  sum_i loss(features[i] weights, targets[i])
                      + regularization / 2 |weights|**2
    logits = exp(log_scale) * embed(params, query) weights

Lee, Maji, Ravichandran, Soatto 2019, "Meta-Learning with Differentiable Convex
Optimization", arXiv 1904.03758, section 3.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import MetaLearner, Model
from metajax.learners import Scaled, fitting_head, scaled_init

_HEADS = {"logistic": heads.logistic, "svm": heads.support_vectors}


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
      A meta-learner whose meta-parameters are `learners.Scaled`, and whose adapted ones are
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

    def fit(meta: Scaled, features: jax.Array, members: jax.Array) -> jax.Array:
        del meta
        return _HEADS[head](features, members, regularization)

    def logits(meta: Scaled, weights: jax.Array, features: jax.Array) -> jax.Array:
        return jnp.exp(meta.log_scale) * (features @ weights)

    return fitting_head(model, ways, fit, logits, scaled_init(model, 1.0))
