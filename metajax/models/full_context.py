"""Full context embeddings: LSTMs that read a whole support set, for `matching_net`."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model
from metajax.models.adapters import from_linen


class ReadSupport(nn.Module):
    """Adds to each support example what two LSTMs say that pass along all of them."""

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        ahead = self._along("forward", features, mask)
        behind = self._along("backward", features[::-1], mask[::-1])[::-1]
        return features + ahead + behind

    def _along(self, name: str, features: jax.Array, mask: jax.Array) -> jax.Array:
        """The outputs of an LSTM that passes over padding."""

        def read(cell, before, example):
            features, real = example
            after, output = cell(before, features)
            kept = jax.tree.map(lambda a, b: jnp.where(real, a, b), after, before)
            return kept, output

        scan = nn.scan(read, variable_broadcast="params", split_rngs={"params": False})
        width = features.shape[1]
        nothing = jnp.zeros(width, features.dtype)
        cell = nn.LSTMCell(width, name=name)
        _, outputs = scan(cell, (nothing, nothing), (features, mask))
        return outputs


class ReadQueries(nn.Module):
    """Lets an LSTM with attention to the support examples read each query for a while."""

    steps: int

    @nn.compact
    def __call__(
        self, inputs: tuple[jax.Array, jax.Array], mask: jax.Array
    ) -> jax.Array:
        features, support = inputs
        cell = nn.LSTMCell(features.shape[1], name="reading")
        memory, hidden = jnp.zeros_like(features), features
        for _ in range(self.steps):
            weights = jax.nn.softmax(hidden @ support.T, where=mask[None])
            both = jnp.concatenate([features, weights @ support], axis=1)
            (memory, hidden), _ = cell((memory, hidden), both)
            hidden = hidden + features
        return hidden


class FullContext(NamedTuple):
    """What makes an embedding depend on the support set.

    Attributes:
      support: a model of `Masked(features, mask)`, the embedded support examples,
        `[examples, features]`, and which are real. Its outputs are g.
      queries: a model of `Masked((features, g), mask)`, embedded queries,
        `[queries, features]`, and what `support` gave. Its outputs are f.
    """

    support: Model
    queries: Model


def full_context(steps: int) -> FullContext:
    """Full context embeddings of matching networks.

        g[i] = features[i] + forward[i] + backward[i]
        c, h' = LSTM([features, r], c, h)         r = softmax(h @ g.T) @ g
        h = h' + features                         f = h after `steps` of it

    where forward and backward are the outputs of LSTMs along the support examples.

    Args:
      steps: how often a query reads the support set.

    Raises:
      ValueError: if there is not one step at least.

    Source:
      Vinyals et al. 2016 (arXiv 1606.04080), appendix A.
    """
    if steps < 1:
        raise ValueError(f"full_context: steps must be positive: got {steps}.")
    return FullContext(from_linen(ReadSupport()), from_linen(ReadQueries(steps)))
