"""Convolution by matrix product is convolution; normalisation is what it says."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.layers import Conv, Dense, Normalize, check_normalization

STRIDES = [(1, 1), (2, 2), (2, 1)]
PROTOCOLS = ["transductive", "support", "layer", "group", "none"]


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("use_bias", [True, False])
def test_conv_equals_flax_conv_with_the_same_params(use_bias):
    options = dict(kernel_size=(3, 3), strides=(2, 1), use_bias=use_bias)
    inputs, ours, flax = (
        _normal(0, 2, 7, 6, 3),
        Conv(4, **options),
        nn.Conv(4, **options),
    )
    ours_init, flax_init = (
        jax.eval_shape(module.init, jax.random.key(0), inputs)
        for module in (ours, flax)
    )
    assert ours_init == flax_init
    params = {"kernel": _normal(1, 3, 3, 3, 4)} | (
        {"bias": _normal(2, 4)} if use_bias else {}
    )
    np.testing.assert_allclose(
        ours.apply({"params": params}, inputs),
        flax.apply({"params": params}, inputs),
        atol=1e-5,
    )


def test_dense_takes_any_leading_axes_as_flax_does():
    inputs = _normal(0, 2, 3, 4)
    params = {"kernel": _normal(1, 4, 5), "bias": _normal(2, 5)}

    def gradient(module):
        return jax.grad(lambda p: jnp.sum(module.apply({"params": p}, inputs) ** 2))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        gradient(Dense(5))(params),
        gradient(nn.Dense(5))(params),
    )


def _normalize(protocol, inputs, scale=None, bias=None, **options):
    features = inputs.shape[-1]
    params = {
        "scale": np.ones(features, np.float32) if scale is None else scale,
        "bias": np.zeros(features, np.float32) if bias is None else bias,
    }
    return Normalize(protocol, **options).apply({"params": params}, inputs)


def _examples(features=16):
    """Examples that differ from each other, and channels too, in mean and scale."""
    scales = np.linspace(0.01, 2, features) * np.arange(1, 5)[:, None, None, None]
    inputs = 3 * scales + scales * _normal(0, 4, 5, 6, features)
    return inputs.astype(np.float32)


@pytest.mark.parametrize("protocol", ["transductive", "support"])
def test_batch_normalisation_gives_mean_zero_and_variance_v_over_v_plus_eps(protocol):
    inputs = _examples()
    variance = inputs.var((0, 1, 2), dtype=np.float64)
    assert variance.min() < 1e-2  # So that epsilon shows.
    outputs = np.asarray(_normalize(protocol, inputs), np.float64)
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(
        outputs.var((0, 1, 2)), variance / (variance + 1e-3), rtol=1e-4
    )


@pytest.mark.parametrize("epsilon", [1e-3, 0.5])
def test_layer_equals_flax_layer_norm_over_height_width_and_channels(epsilon):
    oracle = nn.LayerNorm(
        epsilon=epsilon,
        use_bias=False,
        use_scale=False,
        reduction_axes=(1, 2, 3),
        use_fast_variance=False,
    )
    actual = _normalize("layer", _examples(), epsilon=epsilon)
    np.testing.assert_allclose(actual, oracle.apply({}, _examples()), atol=1e-5)


@pytest.mark.parametrize("features, groups", [(16, 2), (24, 3), (6, 6)])
def test_group_equals_flax_group_norm_by_eight_channels_or_by_one(features, groups):
    oracle = nn.GroupNorm(
        groups, epsilon=1e-3, use_bias=False, use_scale=False, use_fast_variance=False
    )
    inputs = _examples(features)
    actual = _normalize("group", inputs)
    np.testing.assert_allclose(actual, oracle.apply({}, inputs), atol=2e-5)


@pytest.mark.parametrize("protocol", ["layer", "group", "none"])
def test_per_example_protocols_see_one_example_at_a_time(protocol):
    inputs = _examples()
    alone = [_normalize(protocol, example[None])[0] for example in inputs]
    np.testing.assert_allclose(_normalize(protocol, inputs), alone, atol=1e-5)


def test_none_without_scale_and_shift_is_the_identity():
    np.testing.assert_array_equal(_normalize("none", _examples()), _examples())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scale_multiplies_and_bias_shifts_each_channel(protocol):
    scale, bias = _normal(1, 16), _normal(2, 16)
    plain = _normalize(protocol, _examples())
    actual = _normalize(protocol, _examples(), scale, bias)
    expected = np.asarray(plain) * scale + bias
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_normalisation_starts_as_scale_one_and_shift_zero(protocol):
    variables = Normalize(protocol).init(jax.random.key(0), _examples())
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(16))
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(16))


@pytest.mark.parametrize("protocol", ["transductive", "layer"])
def test_a_constant_input_has_finite_first_and_second_derivatives(protocol):
    inputs = jnp.ones((2, 3, 3, 16))

    def cost(inputs):
        return jnp.sum(_normalize(protocol, inputs) ** 2)

    first, second = jax.jit(lambda x: jax.jvp(jax.grad(cost), (x,), (x,)))(inputs)
    assert jnp.isfinite(first).all() and jnp.isfinite(second).all()


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'batch'.*" + ", ".join(PROTOCOLS)):
        check_normalization("batch")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_padding_does_not_count_in_normalisation(protocol):
    module, inputs = Normalize(protocol), _normal(0, 4, 3, 3, 2)
    variables = module.init(jax.random.key(0), inputs)
    padded = np.concatenate([np.full((2, 3, 3, 2), 1e6, np.float32), inputs])
    outputs = module.apply(variables, padded, np.arange(6) >= 2)
    np.testing.assert_allclose(outputs[2:], module.apply(variables, inputs), atol=1e-5)


def test_nothing_but_padding_normalises_to_finite_numbers():
    module, inputs = Normalize("transductive"), _normal(0, 2, 3)
    variables = module.init(jax.random.key(0), inputs)
    assert np.isfinite(module.apply(variables, inputs, np.zeros(2, bool))).all()
