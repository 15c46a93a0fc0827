"""Matching networks: every support example votes for its class, by cosine.

    a = softmax_i cos(embed(params, query), embed(params, support[i]))
    p(c) = sum of a[i] over the support examples i of class c

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, "Matching Networks for One Shot
Learning", arXiv 1606.04080, section 2.1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import MetaLearner, Model, Params
from metajax.learners import fitting_head


class Voters(NamedTuple):
    """What a task has taught: its support examples, embedded."""

    features: jax.Array  # [examples, features]
    memberships: jax.Array  # [examples, ways]


def matching_net(model: Model, ways: int) -> MetaLearner:
    """Matching networks: a nearest-neighbour vote whose embedding is learned.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task. No param depends on them.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      `learners.Fitted` with `Voters`. Its outputs are logits, `[queries, ways]`, whose
      softmax is p.

    Note:
      This is the form without full context embeddings.
    """

    def fit(meta: Params, features: jax.Array, members: jax.Array) -> Voters:
        del meta
        return Voters(features, members)

    def logits(meta: Params, voters: Voters, features: jax.Array) -> jax.Array:
        del meta
        # Not normalised over examples: the loss normalises over classes, which is equal.
        votes = jnp.exp(heads.cosines(features, voters.features)) @ voters.memberships
        return jnp.log(jnp.where(votes > 0, votes, 1))

    return fitting_head(model, ways, fit, logits)
