"""SNAIL's network: convolutions in time and attention, one after the other."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Model
from metajax.models.readers import from_reader
from metajax.models.transformer import attention


class Convolve(nn.Module):
    """A causal convolution of width 2, gated, whose outputs come beside its inputs."""

    filters: int
    dilation: int

    @nn.compact
    def __call__(
        self, hidden: jax.Array, places: np.ndarray, real: jax.Array
    ) -> jax.Array:
        past = places - self.dilation
        beyond = jnp.asarray(past >= 0) & real[past]
        before = jnp.where(beyond[:, None], hidden[past], 0)
        both = jnp.concatenate([before, hidden], axis=1)
        outputs = nn.Dense(2 * self.filters, name="convolution")(both)
        signal, gate = jnp.split(outputs, 2, axis=1)
        return jnp.concatenate([hidden, nn.tanh(signal) * nn.sigmoid(gate)], axis=1)


class Attend(nn.Module):
    """Attention with one head, whose outputs come beside its inputs."""

    num_keys: int
    num_values: int

    def setup(self):
        self.queries = nn.Dense(self.num_keys)
        self.keys = nn.Dense(self.num_keys, use_bias=False)
        self.values = nn.Dense(self.num_values)

    def __call__(self, hidden: jax.Array, allowed: jax.Array) -> jax.Array:
        return self.read(hidden, self.keys_and_values(hidden), allowed)

    def keys_and_values(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.keys(hidden), self.values(hidden)

    def read(self, hidden: jax.Array, kept, allowed: jax.Array) -> jax.Array:
        """Reads from the places whose keys and values are kept."""
        asked = self.queries(hidden)
        queries, keys, values = (each[:, None] for each in (asked, *kept))
        read = attention(queries, keys, values, allowed[None])[:, 0]
        return jnp.concatenate([hidden, read], axis=1)


class Snail(nn.Module):
    """Attention, convolutions, attention, convolutions, attention, and a linear head.

    A question stands where the example after those before it would, and is seen by no
    other place.
    """

    outputs: int
    filters: int
    length: int

    def read(self, features: jax.Array, targets: jax.Array, mask: jax.Array):
        """The examples themselves, in order, behind whatever is padding."""
        if len(mask) > self.length:
            raise ValueError(
                f"snail: {len(mask)} examples are more than its length, {self.length}."
            )
        order = jnp.argsort(mask, stable=True)
        return features[order], targets[order], mask[order]

    def answer(self, memory, features: jax.Array) -> jax.Array:
        """Outputs for features that come after all that was read."""
        return self._answer(memory, features, np.full(len(features), len(memory[2])))

    def answer_each(
        self, features: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Outputs for each example, as if those before it were all there is."""
        memory = self.read(features, targets, mask)
        outputs = self._answer(memory, memory[0], np.arange(len(mask)))
        # Back to where they were.
        order = jnp.argsort(mask, stable=True)
        return outputs[jnp.argsort(order)]

    @nn.compact
    def _answer(self, memory, asked: jax.Array, asked_places: np.ndarray) -> jax.Array:
        features, targets, mask = memory
        places = np.concatenate([np.arange(len(mask)), asked_places])
        real = jnp.concatenate([mask, jnp.ones(len(asked), bool)])
        earlier = places[None] < places[:, None]
        earlier[:, len(mask) :] = False
        allowed = (jnp.asarray(earlier) & real[None]) | np.eye(len(places), dtype=bool)
        known = nn.Dense(self.filters, name="targets", use_bias=False)(targets)
        known = jnp.pad(known, [(0, len(asked)), (0, 0)])
        hidden = jnp.concatenate([jnp.concatenate([features, asked]), known], axis=1)
        half = self.filters // 2
        for block, scale in enumerate((1, 4, 8)):
            attend = Attend(scale * half, scale * half // 2, name=f"attend_{block}")
            hidden = attend(hidden, allowed)
            # As many as it takes for the last place to see the first.
            depth = math.ceil(math.log2(self.length + 1)) if block < 2 else 0
            for layer in range(depth):
                name = f"convolve_{block}_{layer}"
                convolve = Convolve(self.filters, 2**layer, name=name)
                hidden = convolve(hidden, places, real)
        return nn.Dense(self.outputs, name="head")(hidden[len(mask) :])


def snail(outputs: int, *, length: int, filters: int = 128) -> Model:
    """SNAIL: convolutions gather what came before, attention picks from it.

        convolve(h) = [h, tanh(a) * sigmoid(b)],   a, b = W [h[t - dilation], h[t]]
        attend(h)   = [h, attention of each place to those before it and to itself]

    Args:
      outputs: classes a task, or dimensions of real targets.
      length: how many examples at most can be read. It sets how many convolutions, with
        dilations 1, 2, 4 and so on, it takes for the last place to see the first.
      filters: features that each convolution adds, a multiple of 4; attention reads a
        quarter of them, then as many, then twice as many.

    Returns:
      A reader, see `from_reader`. The order of examples matters: they are read as they
      come, without whatever is padding.

    Raises:
      ValueError: if a size is not positive or `filters` no multiple of 4; when there are
        too many examples to read.

    Example:
      >>> reader = snail(5, length=10, filters=8)
      >>> features, labels = jnp.ones((10, 3)), jnp.arange(10) % 5
      >>> def answers(key, questions):
      ...     params = reader.init(key, features)
      ...     read = reader.calibrate(params, (features, labels))
      ...     return reader.apply(read, questions)
      >>> jax.eval_shape(answers, jax.random.key(0), jnp.ones((4, 3))).shape
      (4, 5)

    Source:
      Mishra et al. 2018 (arXiv 1707.03141), sections 3 and 5.1; with 128 filters the
      sizes are theirs.

    Note:
      Each question has its own sequence, as theirs; that of the examples is computed
      once for all of them. One-hot labels go through a linear map first.
    """
    if min(outputs, length, filters) < 1 or filters % 4:
        raise ValueError(
            "snail: outputs, length and filters must be positive, and filters a multiple "
            f"of 4: got {outputs}, {length}, {filters}."
        )
    return from_reader(Snail(outputs, filters, length))
