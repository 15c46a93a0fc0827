"""Many random numbers by one call of the generator, each of whose calls compiles slowly."""

from collections.abc import Callable
import math
from typing import TypeVar

import jax
import jax.numpy as jnp

from metajax.base import Key

Made = TypeVar("Made")


class Draws:
    """Hands out numbers from 0 to 1 one after another, in the distributions asked for."""

    def __init__(self, numbers: jax.Array | None):
        self.numbers = numbers  # None to count what is asked for.
        self.used = 0

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> jax.Array:
        """Uniform numbers from `low` to `high`."""
        first, self.used = self.used, self.used + math.prod(shape)
        if self.numbers is None:
            return jnp.zeros(shape)
        numbers = self.numbers[first : self.used].reshape(shape)
        return low + (high - low) * numbers

    def normal(self, *shape: int) -> jax.Array:
        """Standard normal numbers."""
        # Away from -1, whose number would not be finite.
        return math.sqrt(2) * jax.lax.erf_inv(self.uniform(*shape, low=-1 + 1e-7))

    def integers(self, low: int, high: jax.Array | int, *shape: int) -> jax.Array:
        """Integers from `low` to one less than `high`."""
        span = jnp.asarray(high - low)
        places = self.uniform(*shape) * span.astype(jnp.float32)
        return low + jnp.minimum(places.astype(jnp.int32), span - 1)

    def order(self, *shape: int) -> jax.Array:
        """Permutations along the first axis."""
        return jnp.argsort(self.uniform(*shape), axis=0)


def drawn(key: Key, make: Callable[[Draws], Made]) -> Made:
    """What is made from as many random numbers as it asks for."""
    number = count(make)
    return make(Draws(jax.random.uniform(key, (number,))))


def count(make: Callable[[Draws], object]) -> int:
    """How many numbers are asked for."""
    draws = Draws(None)
    jax.eval_shape(lambda: make(draws))
    return draws.used
