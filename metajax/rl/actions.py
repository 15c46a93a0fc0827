"""Distributions of actions, as tuples of arrays."""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from metajax.base import Key


class Distribution(Protocol):
    """What a policy draws an action from; leaves may have leading axes."""

    def sample(self, key: Key) -> jax.Array:
        """Draws an action."""
        ...

    def mode(self) -> jax.Array:
        """The most probable action."""
        ...

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Logarithm of the probability, or of its density, of an action."""
        ...

    def entropy(self) -> jax.Array:
        """The entropy in nats."""
        ...


class Categorical(NamedTuple):
    """One of so many actions, with probabilities `softmax(logits)`."""

    logits: jax.Array  # [..., actions]

    def sample(self, key: Key) -> jax.Array:
        return jax.random.categorical(key, self.logits)

    def mode(self) -> jax.Array:
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]

    def entropy(self) -> jax.Array:
        log_probs = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


class Normal(NamedTuple):
    """Real actions, independent, `mean + exp(log_std) * noise`."""

    mean: jax.Array  # [..., size]
    log_std: jax.Array  # [..., size]

    def sample(self, key: Key) -> jax.Array:
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> jax.Array:
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        noise = (action - self.mean) * jnp.exp(-self.log_std)
        each = -0.5 * (noise**2 + math.log(2 * math.pi)) - self.log_std
        return jnp.sum(each, axis=-1)

    def entropy(self) -> jax.Array:
        each = self.log_std + 0.5 * (1 + math.log(2 * math.pi))
        return jnp.sum(jnp.broadcast_to(each, self.mean.shape), axis=-1)


_UNLIKELY = -1e9  # Finite, so that its derivative is 0 rather than not a number.


def among(logits: jax.Array, legal: jax.Array | None) -> Categorical:
    """A choice among the legal actions, `legal`, bool[..., actions]; None: among all."""
    if legal is None:
        return Categorical(logits)
    return Categorical(jnp.where(legal, logits, _UNLIKELY))
