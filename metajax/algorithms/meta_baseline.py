"""Meta-Baseline: the nearest class mean by cosine, at a learned temperature.

    means[c] = mean of embed(params, x) over the support examples x of class c
    logits[c] = exp(log_scale) * cos(embed(params, query), means[c])

Chen, Liu, Xu, Darrell, Wang 2021, "Meta-Baseline: Exploring Simple Meta-Learning for
Few-Shot Learning", arXiv 2003.04390, section 3.
"""

import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import MetaLearner, Model
from metajax.learners import Scaled, fitting_head, scaled_init


def meta_baseline(model: Model, ways: int, *, scale: float = 10.0) -> MetaLearner:
    """Meta-Baseline: the nearest class mean by cosine.

    Args:
      model: an embedding, with outputs `[examples, features]`. The paper trains it as a
        classifier of all base classes first; see `closer_look.classifier`.
      ways: classes a task. No param depends on them.
      scale: what cosines are multiplied by at first; it is learned.

    Returns:
      A meta-learner whose meta-parameters are `learners.Scaled`, and whose adapted ones are
      `learners.Fitted` with the means. Its outputs are logits, `[queries, ways]`.

    Raises:
      ValueError: if the scale is not positive.
    """

    def fit(meta: Scaled, features: jax.Array, members: jax.Array) -> jax.Array:
        del meta
        return heads.class_means(features, members)

    def logits(meta: Scaled, means: jax.Array, features: jax.Array) -> jax.Array:
        return jnp.exp(meta.log_scale) * heads.cosines(features, means)

    return fitting_head(model, ways, fit, logits, scaled_init(model, scale))
