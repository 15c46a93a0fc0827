"""Models with a memory, from one place of a sequence to the next."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Key, Params, PyTree, Recurrent


def scanned(
    start: Callable[[Params], PyTree],
    step: Callable[[Params, PyTree, PyTree], tuple[PyTree, PyTree]],
) -> Callable[[Params, PyTree, jax.Array], PyTree]:
    """The `apply` of a recurrent model by its `step`, one place after another.

    Args:
      start: as `Recurrent.start`.
      step: as `Recurrent.step`.

    Returns:
      `(params, inputs, begins) -> outputs`.
    """

    def apply(params: Params, inputs: PyTree, begins: jax.Array) -> PyTree:
        begun = start(params)

        def one(memory: PyTree, place):
            inputs, begins = place
            memory = jax.tree.map(lambda x, y: jnp.where(begins, x, y), begun, memory)
            return step(params, memory, inputs)

        return jax.lax.scan(one, begun, (inputs, begins))[1]

    return apply


class GRUCell(nn.Module):
    """A gated recurrent unit, whose two gates are one product."""

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

    def step(params: Params, memory: PyTree, inputs: jax.Array):
        memory = cell.apply({"params": params}, memory, inputs)
        return memory, memory

    return Recurrent(init, start, step, scanned(start, step))
