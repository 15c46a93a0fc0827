"""Layers that stay fast under a task axis, and normalisation that says what it leaks."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.models.convolution import convolve, matmul

Normalization = Literal["transductive", "support", "layer", "group", "none"]


class Conv(nn.Module):
    """2-D convolution with parameters as in `flax.linen.Conv`, computed by `convolve`."""

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape)
        outputs = convolve(inputs, kernel, self.strides, self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            outputs += bias.reshape(1, 1, 1, -1)
        return outputs


class Dense(nn.Module):
    """Linear layer with parameters as in `flax.linen.Dense`, computed by `matmul`."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        outputs = matmul(inputs.reshape(-1, inputs.shape[-1]), kernel) + bias[None]
        return outputs.reshape(*inputs.shape[:-1], self.features)


class Normalize(nn.Module):
    """Normalisation by the protocol named, followed by a learned scale and shift.

    `transductive` normalises by the mean and variance of the batch at hand, in training
    and in testing alike, as Finn et al. 2017 do: a query's prediction then depends on
    the other queries. `support` does so while adapting, and at the end fixes the
    statistics to those of the support batch (`Model.calibrate`). `layer` and `group`
    use each example alone; `none` only scales and shifts.

    Attributes:
      protocol: "transductive", "support", "layer", "group" or "none".
      epsilon: added to the variance.
    """

    protocol: Normalization
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Normalises `[examples, ..., features]`; where `mask` is False is padding."""
        check_normalization(self.protocol)
        features = inputs.shape[-1]
        each = (1,) * (inputs.ndim - 1) + (features,)  # Broadcasts over the rest.
        scale = self.param("scale", nn.initializers.ones, (features,)).reshape(each)
        bias = self.param("bias", nn.initializers.zeros, (features,)).reshape(each)
        if self.protocol == "none":
            return inputs * scale + bias
        if self.protocol in ("transductive", "support"):
            mean, variance = self._batch_statistics(inputs, mask)
            factor = jax.lax.rsqrt(variance + self.epsilon) * scale
            return inputs * factor + (bias - mean * factor)
        groups = 1 if self.protocol == "layer" else _num_groups(features)
        grouped = inputs.reshape(len(inputs), -1, groups, features // groups)
        mean, variance = _moments(grouped, (1, 3))
        grouped = (grouped - mean) * jax.lax.rsqrt(variance + self.epsilon)
        return grouped.reshape(inputs.shape) * scale + bias

    def _batch_statistics(
        self, inputs: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        fixed = self.has_variable("statistics", "moments")
        collecting = self.is_mutable_collection("statistics")
        if fixed and not collecting:
            return self.get_variable("statistics", "moments")
        if fixed:
            raise ValueError(
                "Normalize('support') was called twice, but has one place for its "
                "statistics: use one Normalize for each call."
            )
        moments = _moments(inputs, tuple(range(inputs.ndim - 1)), mask)
        if collecting and self.protocol == "support":
            self.put_variable("statistics", "moments", moments)
        return moments


def _moments(
    inputs: jax.Array, axes: tuple[int, ...], mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance; over the real examples alone if there is a mask."""
    if mask is None:
        mean = jnp.mean(inputs, axes, keepdims=True)
        return mean, jnp.mean(jnp.square(inputs - mean), axes, keepdims=True)
    real = mask.reshape(len(mask), *(1,) * (inputs.ndim - 1))
    count = jnp.maximum(jnp.sum(mask), 1) * (inputs[0].size // inputs.shape[-1])

    def average(values):
        return jnp.sum(values, axes, keepdims=True, where=real) / count.astype(
            values.dtype
        )

    mean = average(inputs)
    return mean, average(jnp.square(inputs - mean))


def _num_groups(features: int) -> int:
    """Groups of 8 channels (a choice of ours), or of one where 8 does not divide."""
    return features // 8 if features % 8 == 0 else features


def check_normalization(protocol: str) -> None:
    """Raises a ValueError that lists the known protocols, unless it is one of them."""
    if protocol not in get_args(Normalization):
        raise ValueError(
            f"Unknown normalization {protocol!r}: choose one of "
            f"{', '.join(get_args(Normalization))}."
        )
