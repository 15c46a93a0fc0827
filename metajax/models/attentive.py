"""Recurrent models that remember every place: a causal transformer, and SNAIL's network."""

from functools import partial
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Key, Params, PyTree, Recurrent
from metajax.models.snail import Attend, Convolve
from metajax.models.transformer import Block


class Past(NamedTuple):
    """What is kept of the places before."""

    kept: PyTree  # Of each layer, `[length, ...]`.
    num_places: jax.Array  # How many places there were, int32.


class Attentive(nn.Module):
    """Causal blocks over tokens with learned positions."""

    width: int
    layers: int
    heads: int
    length: int

    def setup(self):
        self.inputs = nn.Dense(self.width)
        self.positions = nn.Embed(self.length, self.width)
        self.block = [Block(self.heads) for _ in range(self.layers)]
        self.norm = nn.LayerNorm()

    def start(self) -> list:
        shape = self.length, self.heads, self.width // self.heads
        return [(jnp.zeros(shape), jnp.zeros(shape)) for _ in range(self.layers)]

    def step(self, past: Past, inputs: jax.Array) -> tuple[Past, jax.Array]:
        token = self.inputs(inputs) + self.positions(past.num_places)
        hidden, layers = token[None], []
        before = jnp.arange(self.length) < past.num_places
        allowed = jnp.append(before, True)[None, None]
        for block, kept in zip(self.block, past.kept):
            hidden, own = block.attend(hidden, allowed, kept)
            layers.append(_keep(kept, own, past.num_places))
        return Past(layers, past.num_places + 1), self.norm(hidden[0])

    def along(self, inputs: jax.Array, allowed: jax.Array, places: jax.Array):
        hidden = self.inputs(inputs) + self.positions(places)
        for block in self.block:
            hidden, _ = block.attend(hidden, allowed[None])
        return self.norm(hidden)


class Snail(nn.Module):
    """Convolutions in time, attention, convolutions again and attention again."""

    filters: int
    length: int

    def setup(self):
        self.inputs = nn.Dense(self.filters)
        # As many as it takes for the last place to see the first.
        depth = math.ceil(math.log2(self.length + 1))
        self.convolve = [
            [Convolve(self.filters, 2**layer) for layer in range(depth)]
            for _ in range(2)
        ]
        self.attend = [Attend(self.filters, self.filters) for _ in range(2)]

    def start(self) -> list:
        width, layers = self.filters, []
        zeros = partial(jnp.zeros, dtype=jnp.float32)
        for convolutions in self.convolve:
            for _ in convolutions:
                layers.append(zeros((self.length, width)))
                width += self.filters
            layers.append((zeros((self.length, self.filters)),) * 2)
            width += self.filters
        return layers

    def step(self, past: Past, inputs: jax.Array) -> tuple[Past, jax.Array]:
        hidden, layers = self.inputs(inputs)[None], []
        remaining = iter(past.kept)
        before = jnp.arange(self.length) <= past.num_places
        for convolutions, attend in zip(self.convolve, self.attend):
            for convolve in convolutions:
                kept, ago = next(remaining), past.num_places - convolve.dilation
                pair = jnp.concatenate([kept[jnp.maximum(ago, 0)][None], hidden])
                layers.append(_keep(kept, hidden, past.num_places))
                real = jnp.stack([ago >= 0, jnp.bool_(True)])
                hidden = convolve(pair, np.array([0, convolve.dilation]), real)[1:]
            own = attend.keys_and_values(hidden)
            kept = _keep(next(remaining), own, past.num_places)
            layers.append(kept)
            hidden = attend.read(hidden, kept, before[None])
        return Past(layers, past.num_places + 1), hidden[0]

    def along(self, inputs: jax.Array, allowed: jax.Array, places: jax.Array):
        hidden = self.inputs(inputs)
        for convolutions, attend in zip(self.convolve, self.attend):
            for convolve in convolutions:
                hidden = self._convolve(convolve, hidden, places)
            hidden = attend(hidden, allowed)
        return hidden

    def _convolve(self, convolve: Convolve, hidden: jax.Array, places: jax.Array):
        """Each place with that so many before it, if it belongs to the same sequence."""
        ago = convolve.dilation
        before = jnp.pad(hidden, [(ago, 0), (0, 0)])[: len(hidden)]

        def one(before, hidden, place):
            real = jnp.stack([place >= ago, jnp.bool_(True)])
            return convolve(jnp.stack([before, hidden]), np.array([0, ago]), real)[1]

        return jax.vmap(one)(before, hidden, places)


def attentive(width: int, *, layers: int, heads: int, length: int) -> Recurrent:
    """A causal transformer that reads places one by one, or all at once.

        token[t] = inputs W + positions[t],   each block attends to tokens 0 to t

    Args:
      width: of a token and of the outputs, a multiple of `heads`.
      layers: blocks; see `transformer.Block`.
      heads: attention heads of a block.
      length: places of a sequence at most; those beyond would not be remembered.

    Returns:
      A recurrent model of inputs `[features]`, with outputs `[width]`, whose memory are
      the keys and values of the places before.

    Raises:
      ValueError: if a size is not positive, or heads do not divide the width.

    Source:
      Melo 2022 (arXiv 2206.06614), section 4, for transformers as memories of trials.
    """
    sizes = width, layers, heads, length
    if min(sizes) < 1 or width % heads:
        raise ValueError(
            "attentive: width, layers, heads and length must be positive, and heads must "
            f"divide width: got {sizes}."
        )
    return _remembering_places(Attentive(*sizes))


def convolving(filters: int, *, length: int) -> Recurrent:
    """SNAIL's network as a memory: convolutions gather, attention picks.

    Args:
      filters: features that each convolution and each attention adds.
      length: places of a sequence at most.

    Returns:
      A recurrent model of inputs `[features]`; all features come out.

    Raises:
      ValueError: if a size is not positive.

    Source:
      Mishra et al. 2018 (arXiv 1707.03141), sections 3 and 5.2.

    Note:
      Two rounds of convolutions and attention, whatever the task.
    """
    if min(filters, length) < 1:
        raise ValueError(
            f"convolving: filters and length must be positive: got {filters}, {length}."
        )
    return _remembering_places(Snail(filters, length))


def _remembering_places(module: nn.Module) -> Recurrent:
    """A module with `start`, `step` and `along` as a recurrent model."""

    def init(key: Key, inputs: jax.Array) -> Params:
        return module.init(key, start(None), inputs, method="step")["params"]

    def start(params: Params) -> Past:
        del params
        return Past(module.bind({}).start(), jnp.int32(0))

    def step(params: Params, past: Past, inputs: jax.Array):
        return module.apply({"params": params}, past, inputs, method="step")

    def apply(params: Params, inputs: jax.Array, begins: jax.Array) -> PyTree:
        index = jnp.arange(len(begins))
        first = jax.lax.cummax(jnp.where(begins, index, 0))  # Of each one's sequence.
        allowed = (index[None] <= index[:, None]) & (index[None] >= first[:, None])
        variables = {"params": params}
        return module.apply(variables, inputs, allowed, index - first, method="along")

    return Recurrent(init, start, step, apply)


def _keep(kept: PyTree, own: PyTree, count: jax.Array) -> PyTree:
    """What is kept, with that of one more place, `[1, ...]`."""
    return jax.tree.map(
        lambda kept, own: kept.at[count].set(own[0], mode="drop"), kept, own
    )
