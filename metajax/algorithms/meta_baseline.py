"""Meta-Baseline: the nearest class mean by cosine, at a learned temperature.

    means[c] = mean of embed(params, x) over the support examples x of class c
    logits[c] = exp(log_scale) * cos(embed(params, query), means[c])

Chen, Liu, Xu, Darrell, Wang 2021, "Meta-Baseline: Exploring Simple Meta-Learning for
Few-Shot Learning", arXiv 2003.04390, section 3.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import Key, MetaLearner, Model, Params, PyTree
from metajax.learners import fitting_head


class Scaled(NamedTuple):
    """What is meta-learned: an embedding, and how much cosines count."""

    params: Params
    log_scale: jax.Array


def meta_baseline(model: Model, ways: int, *, scale: float = 10.0) -> MetaLearner:
    """Meta-Baseline: the nearest class mean by cosine.

    Args:
      model: an embedding, with outputs `[examples, features]`. The paper trains it as a
        classifier of all base classes first; see `closer_look.classifier`.
      ways: classes a task. No param depends on them.
      scale: what cosines are multiplied by at first; it is learned.

    Returns:
      A meta-learner whose meta-parameters are `Scaled`, and whose adapted ones are
      `learners.Fitted` with the means. Its outputs are logits, `[queries, ways]`.

    Raises:
      ValueError: if the scale is not positive.
    """
    if not scale > 0:
        raise ValueError(f"meta_baseline: scale must be positive: got {scale}.")

    def init(key: Key, inputs: PyTree) -> Scaled:
        return Scaled(model.init(key, inputs), jnp.float32(math.log(scale)))

    def fit(meta: Scaled, features: jax.Array, members: jax.Array) -> jax.Array:
        del meta
        return heads.class_means(features, members)

    def logits(meta: Scaled, means: jax.Array, features: jax.Array) -> jax.Array:
        return jnp.exp(meta.log_scale) * heads.cosines(features, means)

    return fitting_head(model, ways, fit, logits, init)
