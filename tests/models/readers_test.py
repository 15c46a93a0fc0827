"""Readers answer from what they have read, and from nothing else."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import Masked
from metajax.models import full_context, in_context_transformer, linear_attention
from metajax.models.transformer import Block

EXAMPLES, FEATURES, WAYS, LENGTH = 5, 4, 3, 7
SIZES = dict(width=8, layers=2, heads=2)
READERS = {
    "set": in_context_transformer(WAYS, **SIZES),
    "causal": in_context_transformer(WAYS, **SIZES, length=LENGTH),
    "small": in_context_transformer(WAYS, width=4, layers=1, heads=1, length=LENGTH),
    "linear": linear_attention(WAYS, width=6),
}


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


FEATURES_READ, ASKED = _normal(0, EXAMPLES, FEATURES), _normal(1, 4, FEATURES)
LABELS = np.array([2, 0, 1, 1, 0], np.int32)


@cache
def _params(name):
    """Params away from their initial zeros, where nothing cancels."""
    shapes = jax.eval_shape(READERS[name].init, jax.random.key(0), FEATURES_READ)
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (0.4 * random.normal(size=leaf.shape)).astype(np.float32), shapes
    )


@partial(jax.jit, static_argnums=0)
def _answer(name, pairs, asked, params=None):
    reader = READERS[name]
    read = reader.calibrate(_params(name) if params is None else params, pairs)
    return reader.apply(read, asked)


@partial(jax.jit, static_argnums=0)
def _answer_each(name, pairs):
    return READERS[name].apply(_params(name), pairs)


@pytest.mark.parametrize("name", ["set", "causal", "linear"])
def test_each_question_is_answered_alone_and_from_what_was_read(name):
    together = _answer(name, (FEATURES_READ, LABELS), ASKED)
    assert together.shape == (4, WAYS)
    for i in range(4):
        alone = _answer(name, (FEATURES_READ, LABELS), ASKED[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-5)
    for change in [(FEATURES_READ + 0.5, LABELS), (FEATURES_READ, 2 - LABELS)]:
        assert np.abs(_answer(name, change, ASKED) - together).max() > 1e-2


@pytest.mark.parametrize("name", ["set", "causal", "linear"])
def test_padding_anywhere_is_as_if_absent(name):
    mask = np.array([0, 1, 1, 0, 0, 1, 1, 1, 0], bool)[
        : LENGTH if name == "causal" else 9
    ]
    real = mask.sum()
    features = np.full((len(mask), FEATURES), np.nan, np.float32)
    labels = np.full(len(mask), 99, np.int32)
    features[mask], labels[mask] = FEATURES_READ[:real], LABELS[:real]
    padded = _answer(name, Masked((features, labels), mask), ASKED)
    absent = _answer(name, (FEATURES_READ[:real], LABELS[:real]), ASKED)
    np.testing.assert_allclose(padded, absent, atol=1e-5)


@pytest.mark.parametrize("name", ["set", "causal", "linear"])
def test_order_matters_to_the_causal_form_alone(name):
    before = _answer(name, (FEATURES_READ, LABELS), ASKED)
    after = _answer(name, (FEATURES_READ[::-1], LABELS[::-1]), ASKED)
    if name == "causal":
        assert np.abs(before - after).max() > 1e-2
    else:
        np.testing.assert_allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("name", ["set", "causal", "linear"])
def test_labels_are_read_as_one_hot_vectors(name):
    vectors = np.eye(WAYS, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(
        _answer(name, (FEATURES_READ, vectors), ASKED),
        _answer(name, (FEATURES_READ, LABELS), ASKED),
        atol=1e-6,
    )


def test_questions_are_places_of_one_sequence_that_no_other_place_sees():
    params, blocks = _params("set"), Block(SIZES["heads"])

    @jax.jit
    def whole(params):
        targets = np.eye(WAYS, dtype=np.float32)[LABELS]
        tokens = jnp.concatenate([FEATURES_READ, ASKED]) @ params["inputs"]["kernel"]
        tokens += params["inputs"]["bias"][None]
        tokens = tokens.at[:EXAMPLES].add(targets @ params["targets"]["kernel"])
        allowed = np.eye(len(tokens), dtype=bool)
        allowed[:, :EXAMPLES] = True
        for i in range(SIZES["layers"]):
            variables = {"params": params[f"block_{i}"]}
            tokens, _ = blocks.apply(variables, tokens, allowed[None], method="attend")
        centred = tokens - tokens.mean(axis=1, keepdims=True)
        scaled = centred / jnp.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
        scaled = scaled * params["norm"]["scale"][None] + params["norm"]["bias"][None]
        return scaled @ params["head"]["kernel"] + params["head"]["bias"][None]

    actual = _answer("set", (FEATURES_READ, LABELS), ASKED)
    np.testing.assert_allclose(actual, whole(params)[EXAMPLES:], rtol=1e-3, atol=1e-4)


def test_one_pass_along_a_sequence_answers_as_each_of_its_beginnings_does():
    features, labels = (
        np.concatenate([FEATURES_READ, ASKED[:2]]),
        np.append(LABELS, [2, 1]),
    )
    each = _answer_each("causal", (features, labels.astype(np.int32)))
    for k in range(LENGTH):
        # The others may be padding, since it is as if absent.
        pairs = Masked((features, labels.astype(np.int32)), np.arange(LENGTH) < k)
        expected = _answer("causal", pairs, features[k : k + 1])
        np.testing.assert_allclose(each[k : k + 1], expected, atol=1e-5)
    mask = np.array([1, 0, 1, 1, 0, 1, 1], bool)
    masked = _answer_each("causal", Masked((features, labels.astype(np.int32)), mask))
    absent = _answer_each("causal", (features[mask], labels[mask].astype(np.int32)))
    np.testing.assert_allclose(masked[mask], absent, atol=1e-5)


def test_its_derivatives_equal_finite_differences():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), _params("small"))
        pairs, asked = (FEATURES_READ.astype(np.float64), LABELS), ASKED[:1]

        def cost(size):
            moved = jax.tree.map(lambda leaf: leaf + size * np.cos(leaf), params)
            return jnp.sum(_answer("small", pairs, asked.astype(np.float64), moved))

        both = jax.jit(lambda size: (cost(size), jax.grad(cost)(size)))
        (up, slope_up), (down, slope_down) = both(1e-5), both(-1e-5)
        slope, bend = jax.jit(jax.jvp, static_argnums=0)(jax.grad(cost), (0.0,), (1.0,))
        np.testing.assert_allclose((up - down) / 2e-5, slope, rtol=1e-6)
        np.testing.assert_allclose((slope_up - slope_down) / 2e-5, bend, rtol=1e-6)


def test_linear_attention_can_be_one_step_of_gradient_descent():
    rate, identity = 0.3, np.eye(FEATURES + WAYS, dtype=np.float32)
    params = {
        "keys": {"kernel": identity[:, :FEATURES]},
        "values": {"kernel": identity[:, FEATURES:]},
        "queries": {"kernel": rate * identity[:FEATURES, :FEATURES]},
    }
    targets = _normal(2, EXAMPLES, WAYS)

    def loss(weights):
        return jnp.sum((FEATURES_READ @ weights - targets) ** 2) / (2 * EXAMPLES)

    step = -rate * jax.grad(loss)(np.zeros((FEATURES, WAYS), np.float32))
    reader = linear_attention(WAYS, width=FEATURES)
    actual = reader.apply(reader.calibrate(params, (FEATURES_READ, targets)), ASKED)
    np.testing.assert_allclose(actual, ASKED @ step, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="heads must divide width"):
        in_context_transformer(WAYS, **SIZES | {"heads": 3})
    with pytest.raises(ValueError, match="must be positive"):
        in_context_transformer(WAYS, **SIZES, length=0)
    with pytest.raises(ValueError, match="sizes must be positive"):
        linear_attention(1, width=0)
    with pytest.raises(ValueError, match="steps must be positive: got 0"):
        full_context(0)
    pairs = np.ones((LENGTH + 1, FEATURES), np.float32), np.zeros(LENGTH + 1, int)
    with pytest.raises(ValueError, match="8 examples are more than its length, 7"):
        _answer("causal", pairs, ASKED)
    for name in ("set", "linear"):
        with pytest.raises(ValueError, match="order"):
            _answer_each(name, (FEATURES_READ, LABELS))
