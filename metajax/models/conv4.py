"""The four-layer convolutional network of the few-shot literature."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model
from metajax.models import layers
from metajax.models.adapters import from_linen


class Conv4(nn.Module):
    """Four blocks of convolution, normalisation and ReLU, and a linear head."""

    ways: int | None
    width: int
    downsample: Literal["stride", "pool"]
    normalization: layers.Normalization
    head_std: float | None
    warp: bool
    final_relu: bool

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array | tuple[jax.Array, jax.Array],
        mask: jax.Array | None = None,
    ) -> jax.Array:
        inputs, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        if inputs.ndim != 4:
            raise ValueError(
                "conv4 needs images [examples, height, width, channels]: got "
                f"{inputs.shape}; use mlp for vectors."
            )
        pool = self.downsample == "pool"
        hidden = inputs
        for block in range(4):
            strides = (1, 1) if pool else (2, 2)
            # The shift of the normalisation stands for the bias.
            hidden = layers.Conv(self.width, strides=strides, use_bias=False)(hidden)
            hidden = layers.Normalize(self.normalization)(hidden, mask)
            if context is not None and block == 2:
                hidden = _modulate(
                    hidden, layers.Dense(2 * self.width, name="film")(context[None])
                )
            if block < 3 or self.final_relu:
                hidden = nn.relu(hidden)
            if self.warp:
                hidden = layers.Conv(self.width, name=f"Warp_{block}")(hidden)
            if pool:
                if min(hidden.shape[1:3]) < 2:
                    raise ValueError(
                        f"conv4 with downsample='pool' needs images of 16 pixels or "
                        f"more: got {inputs.shape[1:3]}."
                    )
                hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        if pool:
            features = hidden.reshape(len(hidden), -1)
        else:
            features = jnp.mean(hidden, axis=(1, 2))
        if self.ways is None:
            return features
        if self.head_std is None:
            kernel_init = nn.initializers.lecun_normal()
        else:
            kernel_init = nn.initializers.normal(self.head_std)
        return layers.Dense(self.ways, kernel_init, name="head")(features)


def _modulate(hidden: jax.Array, scale_and_shift: jax.Array) -> jax.Array:
    """Feature-wise linear modulation, `(1 + scale) * hidden + shift`."""
    scale, shift = jnp.split(scale_and_shift[:, None, None], 2, axis=-1)
    return (1 + scale) * hidden + shift


def conv4(
    ways: int | None,
    *,
    width: int = 64,
    downsample: Literal["stride", "pool"] = "stride",
    normalization: layers.Normalization = "transductive",
    head_std: float | None = None,
    warp: bool = False,
    final_relu: bool = True,
) -> Model:
    """Conv4: four 3x3 convolutions, each normalised, ReLU, and halved in size.

    Args:
      ways: classes a task, the width of the linear head; None for no head, so that the
        outputs are the features.
      width: features of each convolution.
      downsample: "stride" halves by convolutions of stride 2 and averages the last map,
        as Finn et al. 2017 do for Omniglot; "pool" by 2x2 max-pooling and flattens it,
        as Vinyals et al. 2016 and Snell et al. 2017.
      normalization: "transductive", "support", "layer", "group" or "none"; see
        `layers.Normalize`.
      head_std: standard deviation of the head's initial weights, drawn from a normal;
        LeCun's, `1 / sqrt(features)`, if None.
      warp: whether a further 3x3 convolution, "Warp_0" and so on, follows each ReLU, for
        `warpgrad`.
      final_relu: whether features of the last block are cut off at 0, which takes half of
        the directions from a head that is fitted to them.

    Returns:
      A model from images `[examples, height, width, channels]` to logits
      `[examples, ways]`. Of a pair `(images, context)` it scales and shifts the features
      of the third convolution by a linear map of the context, a vector (CAVIA, Zintgraf
      et al. 2019, section 5.2); a context of zeros changes nothing at first.

    Raises:
      ValueError: if an argument is none of those listed.

    Source:
      Finn et al. 2017 (arXiv 1703.03400), section 5.2; Vinyals et al. 2016
      (arXiv 1606.04080), section 4.1.

    Note:
      Finn's code has no scale in the normalisation, does not adapt its shift in the
      inner loop, and draws the head with head_std=1; here scale and shift are params
      like any other, which `adjoints.only` can leave alone, and the head starts small.
    """
    if downsample not in ("stride", "pool"):
        raise ValueError(
            f"Unknown downsample {downsample!r}: choose one of stride, pool."
        )
    if width < 1 or (ways is not None and ways < 1):
        raise ValueError(f"conv4: ways and width must be positive: {ways}, {width}.")
    layers.check_normalization(normalization)
    module = Conv4(ways, width, downsample, normalization, head_std, warp, final_relu)
    return from_linen(module)
