"""Matching networks: every support example votes for its class, by cosine.

    a = softmax_i cos(f(query), g(support[i]))
    p(c) = sum of a[i] over the support examples i of class c

f and g are one embedding, or, with full context, what LSTMs make of it that have read the
whole support set.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, "Matching Networks for One Shot
Learning", arXiv 1606.04080, section 2.1 and appendix A.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax import heads
from metajax.base import Key, MetaLearner, Model, Params, PyTree
from metajax.learners import fitting_head


class Contextual(NamedTuple):
    """What is meta-learned with full context: an embedding, and what reads examples."""

    params: Params
    context: Params


class Voters(NamedTuple):
    """What a task has taught: its support examples, embedded."""

    features: jax.Array  # [examples, features]
    memberships: jax.Array  # [examples, ways]


def matching_net(model: Model, ways: int, *, context_steps: int = 0) -> MetaLearner:
    """Matching networks: a nearest-neighbour vote whose embedding is learned.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task. No param depends on them.
      context_steps: how often a query reads the support set, with full context
        embeddings; 0 for none.

    Returns:
      A meta-learner whose meta-parameters are model params, or `Contextual` with full
      context, and whose adapted ones are `learners.Fitted` with `Voters`. Its outputs
      are logits, `[queries, ways]`, whose softmax is p. With full context they depend on
      the order of the support examples.

    Raises:
      ValueError: if there are fewer than 0 steps.
    """
    if context_steps < 0:
        raise ValueError(
            f"matching_net: context_steps must be 0 or more: got {context_steps}."
        )

    def init(key: Key, inputs: PyTree) -> Contextual:
        model_key, context_key = jax.random.split(key)
        params = model.init(model_key, inputs)
        features = model.apply(params, inputs)
        shown = jnp.ones(len(features), bool)
        context = _context(features, context_steps)
        return Contextual(params, context.init(context_key, features, shown))

    def fit(meta, features: jax.Array, members: jax.Array) -> Voters:
        if context_steps:
            shown = jnp.any(members > 0, axis=1)
            context = _context(features, context_steps)
            features = context.apply(meta.context, features, shown, method="support")
        return Voters(features, members)

    def logits(meta, voters: Voters, features: jax.Array) -> jax.Array:
        if context_steps:
            shown = jnp.any(voters.memberships > 0, axis=1)
            context = _context(features, context_steps)
            features = context.apply(
                meta.context, features, voters.features, shown, method="query"
            )
        # Not normalised over examples: the loss normalises over classes, which is equal.
        votes = jnp.exp(heads.cosines(features, voters.features)) @ voters.memberships
        return jnp.log(jnp.where(votes > 0, votes, 1))

    own_init = init if context_steps else None
    return fitting_head(model, ways, fit, logits, own_init)


class _FullContext(nn.Module):
    """Full context embeddings: g of the support examples, and f of queries.

        g[i] = features[i] + forward[i] + backward[i]
        c, h' = LSTM([features, r], c, h)         r = softmax(h @ g.T) @ g
        h = h' + features                         f = h after `steps` of it

    where forward and backward are the outputs of LSTMs along the support examples.
    """

    width: int
    steps: int

    def setup(self):
        self.forward, self.backward, self.reading = (
            nn.LSTMCell(self.width) for _ in range(3)
        )

    def __call__(self, features: jax.Array, shown: jax.Array) -> jax.Array:
        """All of it, for its params."""
        return self.query(features, self.support(features, shown), shown)

    def support(self, features: jax.Array, shown: jax.Array) -> jax.Array:
        ahead = self._along(self.forward, features, shown)
        behind = self._along(self.backward, features[::-1], shown[::-1])[::-1]
        return features + ahead + behind

    def query(
        self, features: jax.Array, support: jax.Array, shown: jax.Array
    ) -> jax.Array:
        memory, hidden = jnp.zeros_like(features), features
        for _ in range(self.steps):
            weights = jax.nn.softmax(hidden @ support.T, where=shown[None])
            inputs = jnp.concatenate([features, weights @ support], axis=1)
            (memory, hidden), _ = self.reading((memory, hidden), inputs)
            hidden = hidden + features
        return hidden

    def _along(self, cell: nn.LSTMCell, features: jax.Array, shown: jax.Array):
        """The outputs of an LSTM that passes over what is not shown."""

        def read(cell, before, example):
            features, shown = example
            after, output = cell(before, features)
            kept = jax.tree.map(lambda a, b: jnp.where(shown, a, b), after, before)
            return kept, output

        scan = nn.scan(read, variable_broadcast="params", split_rngs={"params": False})
        nothing = jnp.zeros(self.width, features.dtype)
        _, outputs = scan(cell, (nothing, nothing), (features, shown))
        return outputs


def _context(features: jax.Array, steps: int) -> _FullContext:
    return _FullContext(features.shape[1], steps)
