"""Encoders of token ids `[examples, length]`, in which id 0 is padding."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Model
from metajax.models import layers
from metajax.models.adapters import from_linen
from metajax.models.convolution import matmul
from metajax.models.transformer import Blocks


class Bag(nn.Module):
    """Weighted counts of ids with a projection of them, normalised, and a linear head."""

    vocabulary: int
    outputs: int | None
    projection: int
    log_weights_init: Callable

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        ids = _checked(ids)
        log_weights = self.param(
            "log_weights", self.log_weights_init, (self.vocabulary,)
        )
        counts = jnp.zeros((len(ids), self.vocabulary), log_weights.dtype)
        counts = counts.at[jnp.arange(len(ids))[:, None], ids].add(
            (ids != 0).astype(counts.dtype)
        )
        features = _normalized(jnp.log1p(counts) * jnp.exp(log_weights)[None])
        if self.projection:
            shape = (self.vocabulary, self.projection)
            small = nn.initializers.normal(0.01)
            projected = matmul(features, self.param("projection", small, shape))
            features = _normalized(jnp.concatenate([features, projected], axis=1))
        return _with_head(features, self.outputs)


def _normalized(vectors: jax.Array) -> jax.Array:
    """Vectors `[examples, features]` of length 1, or of 0."""
    squared = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
    return vectors * jax.lax.rsqrt(squared + 1e-12)


def bag(
    vocabulary: int,
    outputs: int | None = None,
    *,
    projection: int = 0,
    idf: np.ndarray | None = None,
) -> Model:
    """A bag of ids: how often each comes, weighted, as a vector of length 1.

        weighted[id] = exp(log_weights[id]) * log(1 + count[id])
        features = normalize(weighted)
        features = normalize([features, features @ projection])    if there is one

    With weights from `data.idf` the features are tf-idf before anything is learned.
    What is learned is how much each id says about a class, and, by the projection,
    which ids say the same: it adds `projection @ projection.T` to the identity, by
    which tf-idf compares two texts.

    Args:
      vocabulary: how many ids there are; greater ones are not counted.
      outputs: width of a linear head; None for none, so that the outputs are the
        features, `[examples, vocabulary + projection]`.
      projection: width of the projection, which starts near 0.
      idf: initial weights, positive, `[vocabulary]`; ones if None.

    Returns:
      A model from ids `[examples, length]`, in any order, to outputs or features. A
      text of padding alone has features of 0.

    Raises:
      ValueError: if a size is not positive, or if there is not one positive weight for
        each id.

    Example:
      >>> model = bag(4)
      >>> params = model.init(jax.random.key(0), jnp.zeros((1, 3), int))
      >>> np.asarray(model.apply(params, jnp.array([[1, 3, 0]]))).round(2)
      array([[0.  , 0.71, 0.  , 0.71]], dtype=float32)

    Source:
      Bao et al. 2020 (arXiv 1908.06039) learn such weights from a word's frequencies;
      here they are free parameters. The projection is our own.
    """
    _check_positive("bag", vocabulary=vocabulary, outputs=outputs)
    if projection < 0:
        raise ValueError(f"bag: projection must be 0 or more: got {projection}.")
    if idf is None:
        return from_linen(Bag(vocabulary, outputs, projection, nn.initializers.zeros))
    idf = np.asarray(idf)
    if idf.shape != (vocabulary,) or not (idf > 0).all():
        raise ValueError(
            f"bag: idf must be {vocabulary} positive weights: got {idf.shape}, the "
            f"smallest {idf.min(initial=np.inf)}."
        )

    def log_idf(key, shape, dtype=jnp.float32):
        del key, shape
        return jnp.log(jnp.asarray(idf, dtype))

    return from_linen(Bag(vocabulary, outputs, projection, log_idf))


class TextCNN(nn.Module):
    """Embeddings, convolutions along the text, and the greatest value of each feature."""

    vocabulary: int
    outputs: int | None
    width: int
    layers: int

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        ids = _checked(ids)
        real = (ids != 0)[:, :, None]
        hidden = nn.Embed(self.vocabulary, self.width, name="tokens")(ids)
        for index in range(self.layers):
            # Padding looks like what lies beyond the ends of a text: zeros.
            hidden = jnp.where(real, hidden, 0)[:, :, None]
            convolve = layers.Conv(self.width, (3, 1), name=f"Conv_{index}")
            hidden = nn.relu(convolve(hidden)[:, :, 0])
        # After a ReLU nothing is below 0.
        features = jnp.max(jnp.where(real, hidden, 0), axis=1)
        return _with_head(features, self.outputs)


def text_cnn(
    vocabulary: int, outputs: int | None, *, width: int = 64, layers: int = 1
) -> Model:
    """A convolutional text encoder: what three words in a row say most strongly.

        features = max over places of relu(convolution of width 3 (embeddings))

    Args:
      vocabulary: how many ids there are.
      outputs: width of the linear head; None for none, so that the outputs are the
        features, `[examples, width]`.
      width: of embeddings and of features.
      layers: convolutions, each of which sees one more word on either side.

    Returns:
      A model from ids `[examples, length]` to outputs or features, which padding does
      not change. A text of padding alone has features of 0.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> model = text_cnn(100, outputs=5)
      >>> ids = jnp.ones((3, 8), int)
      >>> params = jax.jit(model.init)(jax.random.key(0), ids)
      >>> jax.jit(model.apply)(params, ids).shape
      (3, 5)

    Source:
      Kim 2014 (arXiv 1408.5882), section 2, with one width of kernel.
    """
    sizes: dict[str, Any] = dict(vocabulary=vocabulary, outputs=outputs)
    sizes |= dict(width=width, layers=layers)
    _check_positive("text_cnn", **sizes)
    return from_linen(TextCNN(**sizes))


class TextTransformer(nn.Module):
    """Embeddings with positions, blocks in which all places see each other, the mean."""

    vocabulary: int
    outputs: int | None
    width: int
    layers: int
    heads: int
    length: int

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        ids = _checked(ids)
        if ids.shape[1] > self.length:
            raise ValueError(
                f"text_transformer has positions for texts of length {self.length} at "
                f"most: got {ids.shape}; build it with a greater length."
            )
        real = ids != 0
        hidden = nn.Embed(self.vocabulary, self.width, name="tokens")(ids)
        positions = nn.Embed(self.length, self.width, name="positions").embedding
        hidden += positions[None, : ids.shape[1]]
        hidden = Blocks(self.layers, self.heads, name="blocks")(hidden, real)
        hidden = jnp.where(real[:, :, None], nn.LayerNorm()(hidden), 0)
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        features = jnp.sum(hidden, axis=1) / count.astype(hidden.dtype)
        return _with_head(features, self.outputs)


def text_transformer(
    vocabulary: int,
    outputs: int | None,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    length: int = 64,
) -> Model:
    """A transformer as text encoder: attention in both directions, and the mean.

    Args:
      vocabulary: how many ids there are.
      outputs: width of the linear head; None for none, so that the outputs are the
        features, `[examples, width]`.
      width: of embeddings and features, a multiple of `heads`.
      layers: blocks; see `transformer.Block`.
      heads: attention heads of a block.
      length: the longest text, for the table of positions.

    Returns:
      A model from ids `[examples, length]` to outputs or features, which padding does
      not change. A text of padding alone has features of 0.

    Raises:
      ValueError: if a size is not positive, or if heads do not divide the width; by
        `init` and `apply`, if texts are too long.

    Example:
      >>> model = text_transformer(100, outputs=5, width=8, heads=2, length=16)
      >>> ids = jnp.ones((3, 8), int)
      >>> params = jax.jit(model.init)(jax.random.key(0), ids)
      >>> jax.jit(model.apply)(params, ids).shape
      (3, 5)

    Source:
      Vaswani et al. 2017 (arXiv 1706.03762), the encoder; the mean of all places stands
      for the text.
    """
    sizes: dict[str, Any] = dict(vocabulary=vocabulary, outputs=outputs, width=width)
    sizes |= dict(layers=layers, heads=heads, length=length)
    _check_positive("text_transformer", **sizes)
    if width % heads:
        raise ValueError(
            f"text_transformer: {heads} heads must divide the width, {width}."
        )
    return from_linen(TextTransformer(**sizes))


def _checked(ids: jax.Array) -> jax.Array:
    """Answers for whatever are no ids, as images would not be noticed otherwise."""
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            "Text encoders need token ids [examples, length], as from data.from_texts: "
            f"got {ids.dtype} {ids.shape}."
        )
    return ids


def _with_head(features: jax.Array, outputs: int | None) -> jax.Array:
    """To be called within a module, which then has the parameters of the head."""
    return features if outputs is None else layers.Dense(outputs, name="head")(features)


def _check_positive(model: str, **sizes: int | None) -> None:
    wrong = [
        f"{n}={size}" for n, size in sizes.items() if size is not None and size < 1
    ]
    if wrong:
        raise ValueError(f"{model}: sizes must be positive: got {', '.join(wrong)}.")
