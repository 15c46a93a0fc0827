"""The transformer sees what it may see, and differentiates twice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.losses import cross_entropy
from metajax.models import transformer
from metajax.models.transformer import Block, Blocks, attention


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _tokens(*shape):
    return np.random.default_rng(0).integers(0, 11, shape)


def _model(**options):
    return transformer(11, width=8, layers=2, heads=2, length=6, **options)


@pytest.fixture(scope="module")
def params():
    """Params away from their initial zeros, where nothing cancels."""
    shapes = jax.eval_shape(_model().init, jax.random.key(0), _tokens(1, 6))
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (0.5 * random.normal(size=leaf.shape)).astype(np.float32), shapes
    )


def test_attention_equals_a_loop_over_heads_and_queries():
    queries, keys, values = (_normal(i, 2, 5, 3, 4) for i in range(3))
    allowed = np.tri(5, dtype=bool)
    actual = attention(queries, keys, values, allowed[None, None])
    for n, head, query in np.ndindex(2, 3, 5):
        seen = np.flatnonzero(allowed[query])
        scores = np.exp(keys[n, seen, head] @ queries[n, query, head] / np.sqrt(4))
        expected = scores @ values[n, seen, head] / scores.sum()
        np.testing.assert_allclose(actual[n, query, head], expected, rtol=1e-4)


def test_no_place_sees_a_later_one(params):
    apply = jax.jit(_model().apply)
    tokens = _tokens(2, 6)
    changed = tokens.copy()
    changed[:, 3] = (tokens[:, 3] + 1) % 11
    before, after = apply(params, tokens), apply(params, changed)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert (np.abs(before[:, 3:] - after[:, 3:]).max(-1) > 1e-3).all()
    shorter = jax.jit(_model().apply)(params, tokens[:, :4])
    np.testing.assert_allclose(before[:, :4], shorter, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing_where_places_are_real(causal, remat):
    blocks = Blocks(2, 2, causal, remat)
    inputs, noise = _normal(0, 3, 6, 8), _normal(1, 3, 6, 8)
    mask = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    variables = jax.jit(blocks.init)(jax.random.key(0), inputs)
    apply = jax.jit(blocks.apply)
    before = apply(variables, inputs, mask)
    after = apply(variables, np.where(mask[..., None], inputs, 10 * noise), mask)
    np.testing.assert_allclose(before[mask], after[mask], atol=1e-5)
    assert np.isfinite(after).all()
    cut = apply(variables, inputs[:1, :4])
    np.testing.assert_allclose(before[:1, :4], cut, atol=1e-5)
    unmasked = apply(variables, inputs)
    np.testing.assert_allclose(
        apply(variables, inputs, np.ones((3, 6), bool)), unmasked, atol=1e-6
    )
    assert np.abs(unmasked - before)[0].max() > 1e-3


def test_a_block_that_is_not_causal_treats_a_sequence_as_a_set():
    inputs, order = _normal(0, 2, 5, 8), np.array([3, 0, 4, 1, 2])
    block = Block(2)
    variables = jax.jit(block.init)(jax.random.key(0), inputs)
    apply = jax.jit(block.apply)
    permuted = apply(variables, inputs[:, order])
    np.testing.assert_allclose(permuted, apply(variables, inputs)[:, order], atol=1e-5)


def _derivatives(model, params, tokens):
    """The loss, its gradient, and the product of its Hessian with the params."""

    def loss(params):
        return cross_entropy(model.apply(params, tokens[:, :-1]), tokens[:, 1:])

    value_and_slope = jax.value_and_grad(loss)
    found, (_, product) = jax.jvp(value_and_slope, (params,), (params,))
    return *found, product


def test_both_derivatives_equal_finite_differences(params):
    tokens = _tokens(3, 6)
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, params)
        derivatives = jax.jit(lambda params: _derivatives(_model(), params, tokens))
        _, gradient, product = derivatives(params)
        up, slope_up, _ = derivatives(jax.tree.map(lambda x: (1 + 1e-5) * x, params))
        down, slope_down, _ = derivatives(
            jax.tree.map(lambda x: (1 - 1e-5) * x, params)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, params)))
        np.testing.assert_allclose((up - down) / 2e-5, slope, rtol=1e-6)
        change = jax.tree.map(lambda a, b: (a - b) / 2e-5, slope_up, slope_down)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
            change,
            product,
        )


def test_remat_changes_no_name_and_no_derivative(params):
    tokens = _tokens(3, 6)
    derivatives = jax.jit(_derivatives, static_argnums=0)
    kept, redone = (
        derivatives(_model(remat=remat), params, tokens) for remat in (False, True)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        kept,
        redone,
    )
    initial = (
        jax.jit(_model(remat=r).init)(jax.random.key(0), tokens) for r in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, *initial)


def test_remat_keeps_the_activations_of_one_block_alone():
    def temporaries(remat):
        model = transformer(8, width=16, layers=8, heads=2, length=32, remat=remat)
        tokens = jnp.zeros((8, 32), int)
        shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
        gradient = jax.jit(jax.grad(lambda p: model.apply(p, tokens).sum()))
        compiled = gradient.lower(shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(True) < temporaries(False) / 3


def test_mixed_mode_goes_through_it():
    model = transformer(5, width=4, layers=1, heads=1, length=3)
    tokens = np.random.default_rng(2).integers(0, 5, (2, 4))
    batch = mj.Batch(tokens[:, :-1], tokens[:, 1:])
    params = jax.jit(model.init)(jax.random.key(0), batch.inputs)

    def gradient(adjoint):
        learner = mj.maml(model, cross_entropy, optax.sgd(0.5), 2, adjoint=adjoint)
        objective = mj.query_loss(learner, cross_entropy)
        task = mj.Task(batch, batch)
        outer = jax.grad(lambda params: objective(jax.random.key(0), params, task)[0])
        return jax.jit(outer)(params)

    full, mixed = map(gradient, (mj.adjoints.unroll(), mj.adjoints.mixed_mode()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), full, mixed
    )


@pytest.mark.parametrize("sizes", [{"heads": 3}, {"layers": 0}, {"width": -8}])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="heads must divide width"):
        transformer(11, **{"width": 8, "layers": 2, "heads": 2, "length": 6} | sizes)


@pytest.mark.parametrize("shape", [(2, 7), (6,)])
def test_sequences_that_do_not_fit_are_refused(shape, params):
    with pytest.raises(ValueError, match="of length at most 6"):
        _model().apply(params, _tokens(*shape))
