"""Pre-norm transformers, in operations that differentiate any number of times."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model
from metajax.models.adapters import from_linen

KeysAndValues = tuple[jax.Array, jax.Array]


def attention(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    allowed: jax.Array | None = None,
) -> jax.Array:
    """Attention by scaled dot products, head by head.

        outputs[q] = sum_k softmax_k(queries[q] . keys[k] / sqrt(depth)) values[k]

    Args:
      queries: `[..., queries, heads, depth]`.
      keys: `[..., keys, heads, depth]`.
      values: `[..., keys, heads, depth]`.
      allowed: which keys each query may attend to, True where it may, broadcastable to
        `[..., heads, queries, keys]`; None for all.

    Returns:
      `[..., queries, heads, depth]`. A query that may attend to no key gets the mean of
      all values, rather than NaN.

    Source:
      Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.
    """
    scores = jnp.einsum("...qhd,...khd->...hqk", queries, keys)
    scores *= queries.shape[-1] ** -0.5
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("...hqk,...khd->...qhd", nn.softmax(scores), values)


class Block(nn.Module):
    """Attention of a sequence to itself and an MLP, each normalised first and added.

        hidden = inputs + attend(norm(inputs))
        outputs = hidden + mlp(norm(hidden))

    Without positions in its inputs, and not causal, it treats a sequence as a set.

    Attributes:
      heads: attention heads; they share the width.
      causal: whether a place sees only itself and the places before it.
    """

    heads: int
    causal: bool = False

    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `[examples, length, width]` to the same shape.

        Args:
          inputs: one embedding a place.
          mask: True for real places, `[examples, length]`, which then do not depend on
            the others; None if all are.
        """
        length = inputs.shape[-2]
        allowed = jnp.tri(length, dtype=bool)[None, None] if self.causal else None
        if mask is not None:
            real = mask[:, None, None, :]
            allowed = real if allowed is None else allowed & real
        return self.attend(inputs, allowed)[0]

    @nn.compact
    def attend(
        self,
        inputs: jax.Array,
        allowed: jax.Array | None,
        memory: KeysAndValues | None = None,
    ) -> tuple[jax.Array, KeysAndValues]:
        """Maps `[..., length, width]`, beside what is remembered of other places.

        Args:
          inputs: one embedding a place.
          allowed: as in `attention`, for the keys in memory and, after them, those of
            the inputs.
          memory: keys and values of other places, `[..., kept, heads, depth]` both.

        Returns:
          The outputs, and the keys and values of the inputs.
        """
        width = inputs.shape[-1]
        projected = nn.Dense(3 * width, name="projections")(nn.LayerNorm()(inputs))
        heads = projected.reshape(*inputs.shape[:-1], 3 * self.heads, -1)
        queries, keys, values = jnp.split(heads, 3, axis=-2)
        own = keys, values
        if memory is not None:
            keys, values = (jnp.concatenate(pair, axis=-3) for pair in zip(memory, own))
        attended = attention(queries, keys, values, allowed)
        hidden = inputs + nn.Dense(width, name="mix")(attended.reshape(inputs.shape))
        expanded = nn.gelu(nn.Dense(4 * width, name="expand")(nn.LayerNorm()(hidden)))
        return hidden + nn.Dense(width, name="contract")(expanded), own


class Blocks(nn.Module):
    """Blocks one after another.

    Attributes:
      layers: how many.
      heads: attention heads of each.
      causal: as in `Block`.
      remat: whether a block's activations are recomputed in the backward pass rather
        than kept, for less memory and a little more time. It changes no result, and no
        name of a parameter.
    """

    layers: int
    heads: int
    causal: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps `[examples, length, width]` to the same shape; `mask` as in `Block`."""
        block = partial(Block, self.heads, self.causal)
        blocks = [block(name=f"block_{i}") for i in range(self.layers)]
        if not self.remat or self.is_initializing():
            for each in blocks:
                inputs = each(inputs, mask)
            return inputs

        # In a loop, since the compiler for CPUs undoes recomputation outside of one.
        def body(hidden, params):
            return block(parent=None).apply({"params": params}, hidden, mask), None

        params = [each.variables["params"] for each in blocks]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        return jax.lax.scan(jax.checkpoint(body, prevent_cse=False), inputs, stacked)[0]


class Transformer(nn.Module):
    """Token and position embeddings, causal blocks, and a linear head."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    length: int
    remat: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        if tokens.ndim != 2 or tokens.shape[1] > self.length:
            raise ValueError(
                f"transformer needs token ids [examples, length] of length at most "
                f"{self.length}: got {tokens.shape}."
            )
        positions = nn.Embed(self.length, self.width, name="positions").embedding
        embedded = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens)
        embedded += positions[None, : tokens.shape[1]]
        blocks = Blocks(self.layers, self.heads, True, self.remat, name="blocks")
        hidden = nn.LayerNorm()(blocks(embedded))
        return nn.Dense(self.vocabulary, name="head")(hidden)


def transformer(
    vocabulary: int,
    *,
    width: int,
    layers: int,
    heads: int,
    length: int,
    remat: bool = False,
) -> Model:
    """A causal language model: logits of the next token at every place.

    Args:
      vocabulary: how many tokens there are; ids run from 0 to one less.
      width: the width of an embedding, a multiple of `heads`.
      layers: blocks.
      heads: attention heads of a block.
      length: the longest sequence, for the table of positions.
      remat: whether blocks are recomputed in the backward pass; see `Blocks`.

    Returns:
      A model from token ids `[examples, length]` to logits
      `[examples, length, vocabulary]`. Padding at the end needs no mask here, since no
      place sees a later one; mask it in the loss.

    Raises:
      ValueError: if a size is not positive, or if heads do not divide the width; by
        `init` and `apply`, if sequences are too long.

    Example:
      >>> model = transformer(256, width=8, layers=2, heads=2, length=16)
      >>> tokens = jnp.zeros((3, 16), int)
      >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> jax.jit(model.apply)(params, tokens).shape
      (3, 16, 256)

    Source:
      Vaswani et al. 2017 (arXiv 1706.03762); Xiong et al. 2020 (arXiv 2002.04745) for
      normalisation before each part; positions are learned.
    """
    sizes = vocabulary, width, layers, heads, length
    if min(sizes) < 1 or width % heads:
        raise ValueError(
            "transformer: vocabulary, width, layers, heads and length must be positive, "
            f"and heads must divide width: got {sizes}."
        )
    return from_linen(Transformer(*sizes, remat))
