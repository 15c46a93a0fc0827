"""Multi-layer perceptrons."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model
from metajax.models import layers
from metajax.models.adapters import from_linen


class MLP(nn.Module):
    """Dense layers with ReLU between them, over flattened inputs."""

    hidden: Sequence[int]
    outputs: int | None
    init_std: float | None = None
    warp: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array | tuple[jax.Array, jax.Array]) -> jax.Array:
        if self.init_std is None:
            kernel_init = nn.initializers.lecun_normal()
        else:
            kernel_init = nn.initializers.truncated_normal(self.init_std)
        inputs, context = inputs if isinstance(inputs, tuple) else (inputs, None)
        hidden = inputs.reshape(len(inputs), -1)
        if context is not None:
            beside = jnp.broadcast_to(context, (len(inputs), *context.shape))
            hidden = jnp.concatenate([hidden, beside], axis=1)
        for index, width in enumerate(self.hidden):
            hidden = nn.relu(layers.Dense(width, kernel_init)(hidden))
            if self.warp:
                hidden = layers.Dense(width, name=f"Warp_{index}")(hidden)
        if self.outputs is None:
            return hidden
        return layers.Dense(self.outputs, kernel_init, name="head")(hidden)


def mlp(
    hidden: Sequence[int],
    outputs: int | None,
    *,
    init_std: float | None = None,
    warp: bool = False,
) -> Model:
    """A multi-layer perceptron, such as the 784-128-10 one: `mlp([128], 10)`.

    Args:
      hidden: the widths of the hidden layers.
      outputs: the width of the last layer, whose outputs are `[examples, outputs]`; None
        for no such layer, so that the outputs are those of the last hidden one.
      init_std: scale of the initial weights, drawn from a normal of that standard
        deviation truncated at two of them; LeCun's, `1 / sqrt(inputs)`, if None.
      warp: whether a linear layer of the same width, "Warp_0" and so on, follows each
        hidden one, for `warpgrad`.

    Returns:
      A model that flattens each input. Of a pair `(inputs, context)` it puts the
      context, a vector, beside each (CAVIA).
    """
    if not all(width > 0 for width in (*hidden, 1 if outputs is None else outputs)):
        raise ValueError(f"mlp: widths must be positive: got {(*hidden, outputs)}.")
    return from_linen(MLP(tuple(hidden), outputs, init_std, warp))


class ResidualMLP(nn.Module):
    """Inputs, and what a perceptron of them adds: nothing at first."""

    hidden: Sequence[int]
    outputs: int | None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        inputs = inputs.reshape(len(inputs), -1)
        hidden = inputs
        for width in self.hidden:
            hidden = nn.relu(layers.Dense(width)(hidden))
        zeros = nn.initializers.zeros
        hidden = inputs + layers.Dense(inputs.shape[1], zeros, name="added")(hidden)
        if self.outputs is None:
            return hidden
        return layers.Dense(self.outputs, zeros, name="head")(hidden)


def residual_mlp(hidden: Sequence[int], outputs: int | None) -> Model:
    """A perceptron beside its inputs, for features of a frozen encoder.

        features + added(relu(... features ...)),  added = 0 at first

    so that meta-learning begins at what the encoder gives.

    Args:
      hidden: the widths of the hidden layers; none for a linear map.
      outputs: the width of a last layer, zero at first; None for no such layer, so that
        the outputs have as many features as the inputs.

    Returns:
      A model that flattens each input.

    Source:
      Gao et al. 2021 (arXiv 2110.04544), section 3.2, whose sum is a weighted one.

    Example:
      >>> model = residual_mlp([8], None)
      >>> features = jax.numpy.ones((2, 3))
      >>> params = model.init(jax.random.key(0), features)
      >>> bool((model.apply(params, features) == features).all())
      True
    """
    if not all(width > 0 for width in (*hidden, 1 if outputs is None else outputs)):
        raise ValueError(
            f"residual_mlp: widths must be positive: {(*hidden, outputs)}."
        )
    return from_linen(ResidualMLP(tuple(hidden), outputs))
