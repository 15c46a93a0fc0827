"""The MLP is a chain of matrix products, over each example alone."""

import jax
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.losses import cross_entropy
from metajax.models import mlp, residual_mlp


def _inputs(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_mlp_equals_matrix_products_with_relu_between_them():
    inputs = _inputs(0, 5, 3, 4)
    model = mlp([7, 6], 2)
    params = model.init(jax.random.key(0), inputs)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # Biases start at zero.
    layers = jax.tree.map(np.asarray, params)
    hidden = inputs.reshape(5, 12)
    for name in ("Dense_0", "Dense_1"):
        hidden = np.maximum(hidden @ layers[name]["kernel"] + layers[name]["bias"], 0)
    expected = hidden @ layers["head"]["kernel"] + layers["head"]["bias"]
    np.testing.assert_allclose(model.apply(params, inputs), expected, atol=1e-5)


def test_without_hidden_layers_it_is_linear():
    model = mlp([], 3)
    params = model.init(jax.random.key(0), _inputs(0, 1, 4))
    assert jax.tree.map(np.shape, params) == {"head": {"kernel": (4, 3), "bias": (3,)}}


def test_without_outputs_they_are_those_of_the_last_hidden_layer():
    inputs = _inputs(0, 5, 4)
    params = mlp([7, 6], 2).init(jax.random.key(0), inputs)
    hidden = mlp([7, 6], None).apply(params, inputs)
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(logits, mlp([7, 6], 2).apply(params, inputs), atol=1e-6)


def test_the_network_of_the_docstring_has_its_params():
    params = jax.eval_shape(
        mlp([128], 10).init, jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32)
    )
    assert mj.trees.size(params) == 784 * 128 + 128 + 128 * 10 + 10


def test_init_std_bounds_the_weights_at_two_and_biases_are_zero():
    params = mlp([400], 300, init_std=0.02).init(jax.random.key(0), _inputs(0, 1, 200))
    # Deviation of a unit normal truncated at two: sqrt(1 - 4 pdf(2) / (cdf(2) - cdf(-2))).
    for name in ("Dense_0", "head"):
        weights = np.asarray(params[name]["kernel"])
        assert 0.039 < np.abs(weights).max() <= 0.04
        np.testing.assert_allclose(weights.std(), 0.87963 * 0.02, rtol=0.02)
        np.testing.assert_array_equal(params[name]["bias"], 0)


def test_lecun_weights_have_variance_one_over_inputs():
    params = mlp([400], 300).init(jax.random.key(0), _inputs(0, 1, 200))
    for name, fan_in in (("Dense_0", 200), ("head", 400)):
        std = np.asarray(params[name]["kernel"]).std()
        np.testing.assert_allclose(std, fan_in**-0.5, rtol=0.02)


def test_a_prediction_does_not_depend_on_the_other_queries():
    model = mlp([8], 3)
    learner = mj.maml(model, cross_entropy, optax.sgd(0.4), 1)
    meta = model.init(jax.random.key(0), _inputs(0, 1, 4))
    support = mj.Batch(_inputs(1, 6, 4), np.arange(6) % 3)
    adapted = learner.adapt(jax.random.key(0), meta, support)
    queries = _inputs(2, 4, 4)
    others = np.concatenate([queries[:1], 1 - 3 * queries[1:]])
    before, after = (learner.predict(meta, adapted, q) for q in (queries, others))
    assert np.abs(before[1:] - after[1:]).max() > 1e-2
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)


@pytest.mark.parametrize("hidden, outputs", [([8, 0], 3), ([8], 0), ([-1], 3)])
def test_widths_that_are_not_positive_are_refused(hidden, outputs):
    with pytest.raises(ValueError, match="widths must be positive"):
        mlp(hidden, outputs)


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_a_residual_mlp_adds_to_its_inputs_nothing_at_first(hidden):
    inputs = _inputs(0, 5, 2, 2)
    flat, model = inputs.reshape(5, 4), residual_mlp(hidden, None)
    params = model.init(jax.random.key(0), inputs)
    np.testing.assert_array_equal(model.apply(params, inputs), flat)
    whole = residual_mlp(hidden, 3)
    logits = whole.apply(whole.init(jax.random.key(0), inputs), inputs)
    np.testing.assert_array_equal(logits, np.zeros((5, 3)))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    layers, added = jax.tree.map(np.asarray, params), flat
    for name in (*["Dense_0"] * len(hidden), "added"):
        added = added @ layers[name]["kernel"] + layers[name]["bias"]
        added = np.maximum(added, 0) if name != "added" else added
    np.testing.assert_allclose(model.apply(params, inputs), flat + added, atol=1e-5)


def test_widths_that_are_none_are_refused():
    for make in (mlp, residual_mlp):
        with pytest.raises(ValueError, match="widths must be positive"):
            make([0], 2)
