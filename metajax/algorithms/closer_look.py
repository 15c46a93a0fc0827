"""The "closer look" baselines: ordinary training on all classes, then a new head.

    training:   minimise  mean of loss(head(embed(params, x)), class of x)
    adaptation: weights -= rate * gradient of the support loss of the new head
        linear:  logits = embed(params, query) weights + bias, from zeros
        cosine:  logits[c] = scale * cos(embed(params, query), weights[c]), from class means

Chen, Liu, Kira, Wang, Huang 2019, "A Closer Look at Few-shot Classification",
arXiv 1904.04232, section 3.2.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from metajax import adjoints, contracts, heads
from metajax.base import Loss, MetaLearner, Model, Params, PyTree
from metajax.learners import adapting_params, fitting_head


def classifier(model: Model) -> MetaLearner:
    """Ordinary training: predicts labels that mean the same in every task.

    Args:
      model: a classifier of all training classes.

    Returns:
      A meta-learner that does not adapt; its meta-parameters are model params.

    Example:
      >>> everything = data.FewShot(  # doctest: +SKIP
      ...     train, ways=64, shots=1, queries=1, permute_labels=False
      ... )
      >>> learner = classifier(models.conv4(64))  # doctest: +SKIP
    """
    return adapting_params(model, lambda key, meta, support: meta)


def baseline(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    ways: int,
    head: Literal["linear", "cosine"] = "linear",
    scale: float = 10.0,
) -> MetaLearner:
    """Baseline and Baseline++: trains a new head on features that stay as they are.

    Args:
      model: an embedding, with outputs `[examples, features]`; params that it does not
        have, such as those of the head that `classifier` trained, are left alone.
      loss: the support loss.
      optimizer: of the new head, any optax transformation.
      num_steps: its steps, each on the whole support batch.
      ways: classes a task.
      head: "linear" starts from zeros, "cosine" from the class means, so that without
        steps it is the nearest class mean by cosine.
      scale: what cosines are multiplied by.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      `learners.Fitted` with the new head. It is meant for testing; its meta-gradient is
      of first order.

    Raises:
      ValueError: if there is no such head.

    Note:
      The paper draws the cosine head at random, trains with such a head as well, and
      takes 100 steps on minibatches of 4.
    """
    if head not in ("linear", "cosine"):
        raise ValueError(f"Unknown head {head!r}: choose one of linear, cosine.")
    contracts.check_losses(loss)

    def logits(meta: Params, weights: PyTree, features: jax.Array) -> jax.Array:
        del meta
        if head == "linear":
            return features @ weights["kernel"] + weights["bias"][None]
        return scale * heads.cosines(features, weights)

    def support_loss(weights: PyTree, given: tuple[jax.Array, jax.Array]) -> jax.Array:
        features, members = given
        targets, real = jnp.argmax(members, axis=1), members.sum(axis=1) > 0
        return loss(logits(None, weights, features), targets, real)

    solve = adjoints.unroll(last=0)(support_loss, optimizer, num_steps)

    def fit(meta: Params, features: jax.Array, members: jax.Array) -> PyTree:
        del meta
        if head == "cosine":
            start = heads.class_means(features, members)
        else:
            kernel = jnp.zeros((features.shape[1], ways), features.dtype)
            start = {"kernel": kernel, "bias": jnp.zeros(ways, features.dtype)}
        return solve(start, (features, members))

    return fitting_head(model, ways, fit, logits)
