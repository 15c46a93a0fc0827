"""Relation networks: a learned comparison of a query with the examples of each class.

    sums[c] = sum of embed(params, x) over the support examples x of class c
    logits[c] = relate(relation, [sums[c], embed(params, query)])

Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018, "Learning to Compare: Relation Network for
Few-Shot Learning", arXiv 1711.06025, section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts
from metajax.base import Key, MetaLearner, Model, Params, PyTree
from metajax.learners import fitting_head


class Related(NamedTuple):
    """What is meta-learned: an embedding, and how embeddings are compared."""

    params: Params
    relation: Params


def relation_net(model: Model, relation: Model, ways: int) -> MetaLearner:
    """RelationNet: compares by a network instead of a distance.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      relation: from pairs of them side by side, `[pairs, 2 * features]`, to
        `[pairs, 1]`, each pair alone, such as `mlp([64], 1)`.
      ways: classes a task. No param depends on them.

    Returns:
      A meta-learner whose meta-parameters are `Related`, and whose adapted ones are
      `learners.Fitted` with the sums. Its outputs are logits, `[queries, ways]`.

    Note:
      The paper compares feature maps by convolutions, and takes the sigmoid's squared
      error from 0 or 1; here the features are vectors, and the loss is the caller's.
    """
    contracts.check_models(model, relation)

    def init(key: Key, inputs: PyTree) -> Related:
        model_key, relation_key = jax.random.split(key)
        params = model.init(model_key, inputs)
        features = model.apply(params, inputs)
        pairs = jnp.concatenate([features, features], axis=1)
        return Related(params, relation.init(relation_key, pairs))

    def fit(meta: Related, features: jax.Array, members: jax.Array) -> jax.Array:
        del meta
        return members.T @ features

    def logits(meta: Related, sums: jax.Array, features: jax.Array) -> jax.Array:
        shape = (len(features), *sums.shape)
        of_class = jnp.broadcast_to(sums[None], shape)
        of_query = jnp.broadcast_to(features[:, None], shape)
        pairs = jnp.concatenate([of_class, of_query], axis=2)
        scores = relation.apply(meta.relation, pairs.reshape(-1, pairs.shape[2]))
        return scores.reshape(shape[:2])

    return fitting_head(model, ways, fit, logits, init)
