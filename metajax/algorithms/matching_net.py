"""Matching networks: every support example votes for its class, by cosine.

    a = softmax_i exp(log_scale) * cos(f(query), g(support[i]))
    p(c) = sum of a[i] over the support examples i of class c

f and g are one embedding, or, with full context, what LSTMs make of it that have read the
whole support set.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, "Matching Networks for One Shot
Learning", arXiv 1606.04080, section 2.1 and appendix A.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts, heads
from metajax.base import Key, Masked, MetaLearner, MetaParams, Model, Params, PyTree
from metajax.learners import fitting_head, scaled_init

_NO_VOTE = -1e9  # Finite, so that a class without votes has derivatives.


class Contextual(NamedTuple):
    """What is meta-learned with full context: an embedding, and what reads examples."""

    params: Params
    support: Params
    queries: Params
    log_scale: jax.Array


class Voters(NamedTuple):
    """What a task has taught: its support examples, embedded."""

    features: jax.Array  # [examples, features]
    memberships: jax.Array  # [examples, ways]


def matching_net(
    model: Model,
    ways: int,
    *,
    scale: float = 10.0,
    context: tuple[Model, Model] | None = None,
) -> MetaLearner:
    """Matching networks: a nearest-neighbour vote whose embedding is learned.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task. No param depends on them.
      scale: what cosines are multiplied by at first; it is learned.
      context: models of g and of f, such as `models.full_context`, which describes their
        inputs; None for the embedding alone.

    Returns:
      A meta-learner whose meta-parameters are `learners.Scaled`, or `Contextual` with
      full context, and whose adapted ones are `learners.Fitted` with `Voters`. Its
      outputs are logits, `[queries, ways]`, whose softmax is p. With full context they
      depend on the order of the support examples.

    Raises:
      ValueError: if the scale is not positive.

    Note:
      The paper's cosines have no scale, so that no example has more than `exp(2)` times
      the weight of another: on Omniglot that trains slowly and ends lower.
    """
    begin = scaled_init(model, scale)
    if context is None:
        return fitting_head(model, ways, _voters, _votes, begin)
    contracts.check_models(*context)
    of_support, of_queries = context

    def init(key: Key, inputs: PyTree) -> Contextual:
        keys = jax.random.split(key, 3)
        params, log_scale = begin(keys[0], inputs)
        features = model.apply(params, inputs)
        shown = jnp.ones(len(features), bool)
        support = of_support.init(keys[1], Masked(features, shown))
        pairs = Masked((features, features), shown)
        queries = of_queries.init(keys[2], pairs)
        return Contextual(params, support, queries, log_scale)

    def fit(meta: Contextual, features: jax.Array, members: jax.Array) -> Voters:
        shown = Masked(features, jnp.any(members > 0, axis=1))
        return _voters(meta, of_support.apply(meta.support, shown), members)

    def logits(meta: Contextual, voters: Voters, features: jax.Array) -> jax.Array:
        shown = jnp.any(voters.memberships > 0, axis=1)
        pairs = Masked((features, voters.features), shown)
        return _votes(meta, voters, of_queries.apply(meta.queries, pairs))

    return fitting_head(model, ways, fit, logits, init)


def _voters(meta: MetaParams, features: jax.Array, members: jax.Array) -> Voters:
    del meta
    return Voters(features, members)


def _votes(meta: MetaParams, voters: Voters, features: jax.Array) -> jax.Array:
    scores = jnp.exp(meta.log_scale) * heads.cosines(features, voters.features)
    # Not normalised over examples: the loss normalises over classes, which is equal.
    each = jnp.where(voters.memberships > 0, scores[:, :, None], _NO_VOTE)
    return jax.nn.logsumexp(each, axis=1)
