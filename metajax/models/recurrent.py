"""Models with a memory, from one input of a sequence to the next."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Key, Params, Recurrent


class GRUCell(nn.Module):
    """A gated recurrent unit whose gates are one product."""

    width: int

    @nn.compact
    def __call__(self, memory: jax.Array, inputs: jax.Array) -> jax.Array:
        both = jnp.concatenate([memory, inputs])
        gates = nn.sigmoid(nn.Dense(2 * self.width, name="gates")(both))
        reset, keep = jnp.split(gates, 2)
        candidate = nn.Dense(self.width, name="candidate")
        new = nn.tanh(candidate(jnp.concatenate([reset * memory, inputs])))
        return keep * memory + (1 - keep) * new


def gru(width: int) -> Recurrent:
    """A gated recurrent unit.

        reset, keep = sigmoid(W [memory, inputs] + b)
        memory' = keep * memory + (1 - keep) * tanh(V [reset * memory, inputs] + c)

    Args:
      width: of the memory, which is also the output.

    Returns:
      A recurrent model of inputs `[features]`, with outputs `[width]`.

    Raises:
      ValueError: if the width is not positive.

    Source:
      Cho et al. 2014 (arXiv 1406.1078), section 2.3.
    """
    if width < 1:
        raise ValueError(f"gru: width must be positive: got {width}.")
    cell = GRUCell(width)

    def init(key: Key, inputs: jax.Array) -> Params:
        return cell.init(key, jnp.zeros(width), inputs)["params"]

    def start(params: Params) -> jax.Array:
        del params
        return jnp.zeros(width)

    def step(params: Params, memory: jax.Array, inputs: jax.Array):
        memory = cell.apply({"params": params}, memory, inputs)
        return memory, memory

    return Recurrent(init, start, step)
