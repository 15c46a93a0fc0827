"""Prototypical networks: each class is the mean of its support examples.

    prototypes[c] = mean of embed(params, x) over the support examples x of class c
    logits[c] = -|embed(params, query) - prototypes[c]|**2

Snell, Swersky, Zemel 2017, "Prototypical Networks for Few-shot Learning",
arXiv 1703.05175, section 2.
"""

import jax

from metajax import heads
from metajax.base import MetaLearner, Model, Params
from metajax.learners import fitting_head


def protonet(model: Model, ways: int) -> MetaLearner:
    """ProtoNet: the nearest class mean, by squared Euclidean distance.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task. No param depends on them, so that training may take more
        than testing, as the paper's does.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      `learners.Fitted` with the means. Its outputs are logits, `[queries, ways]`.

    Example:
      >>> learner = protonet(models.conv4(None), ways=60)  # doctest: +SKIP
      >>> tested = protonet(models.conv4(None), ways=5)  # doctest: +SKIP

    Note:
      The authors normalise support and queries of a training task together, and test
      with running averages. Here queries meet the statistics that the model's protocol
      names: those of the support batch under "support".
    """

    def fit(meta: Params, features: jax.Array, members: jax.Array) -> jax.Array:
        del meta
        return heads.class_means(features, members)

    def logits(meta: Params, means: jax.Array, features: jax.Array) -> jax.Array:
        del meta
        return -heads.squared_distances(features, means)

    return fitting_head(model, ways, fit, logits)
