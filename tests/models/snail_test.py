"""SNAIL reads examples in order, without padding; each question has its own sequence."""

from functools import cache, partial

import jax
import numpy as np
import pytest

from metajax.base import Masked
from metajax.models import snail

EXAMPLES, FEATURES, WAYS, LENGTH, FILTERS = 5, 3, 3, 6, 8
READER = snail(WAYS, length=LENGTH, filters=FILTERS)


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


READ, ASKED = _normal(0, EXAMPLES, FEATURES), _normal(1, 4, FEATURES)
LABELS = np.array([2, 0, 1, 1, 0], np.int32)


@cache
def _params():
    """Params away from their initial zeros, where nothing cancels."""
    shapes = jax.eval_shape(READER.init, jax.random.key(0), READ)
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (0.4 * random.normal(size=leaf.shape)).astype(np.float32), shapes
    )


@jax.jit
def _answer(pairs, asked, params=None):
    params = _params() if params is None else params
    return READER.apply(READER.calibrate(params, pairs), asked)


@jax.jit
def _answer_each(pairs):
    return READER.apply(_params(), pairs)


def _dense(layer, inputs):
    return inputs @ layer["kernel"] + layer.get("bias", 0)


def _last(features, labels, asked):
    """The output at the last place of one sequence, whose question has no label."""
    params = _params()
    known = np.vstack(
        [np.eye(WAYS)[labels] @ params["targets"]["kernel"], np.zeros(FILTERS)]
    )
    hidden = np.hstack([np.vstack([features, asked]), known])
    for block in range(3):
        layer = params[f"attend_{block}"]
        scores = _dense(layer["queries"], hidden) @ _dense(layer["keys"], hidden).T
        scores = np.exp(scores / np.sqrt(layer["keys"]["kernel"].shape[1]))
        scores = np.tril(scores)
        scores /= scores.sum(axis=1, keepdims=True)
        hidden = np.hstack([hidden, scores @ _dense(layer["values"], hidden)])
        for level in range(3 if block < 2 else 0):
            past = np.zeros_like(hidden)
            past[2**level :] = hidden[: -(2**level)]
            layer = params[f"convolve_{block}_{level}"]["convolution"]
            both = _dense(layer, np.hstack([past, hidden]))
            gate = 1 / (1 + np.exp(-both[:, FILTERS:]))
            hidden = np.hstack([hidden, np.tanh(both[:, :FILTERS]) * gate])
    return _dense(params["head"], hidden[-1])


def test_each_question_is_the_last_place_of_a_sequence_of_its_own():
    actual = _answer((READ, LABELS), ASKED)
    expected = np.stack([_last(READ, LABELS, question) for question in ASKED])
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
    alone = _answer((READ, LABELS), ASKED[2:3])
    np.testing.assert_allclose(actual[2:3], alone, atol=1e-5)


def test_one_pass_along_a_sequence_answers_as_each_of_its_beginnings_does():
    actual = _answer_each((READ, LABELS))
    expected = [_last(READ[:k], LABELS[:k], READ[k]) for k in range(1, EXAMPLES)]
    np.testing.assert_allclose(actual[1:], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mask", [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1]])
def test_padding_anywhere_is_as_if_absent(mask):
    mask = np.array(mask, bool)
    absent = READ[mask], LABELS[mask]
    junk = np.where(mask[:, None], READ, 9), np.where(mask, LABELS, 1)
    np.testing.assert_allclose(
        _answer(Masked(junk, mask), ASKED), _answer(absent, ASKED), atol=1e-5
    )
    np.testing.assert_allclose(
        _answer_each(Masked(junk, mask))[mask], _answer_each(absent), atol=1e-5
    )


def test_without_examples_the_answer_is_a_function_of_the_question():
    nothing = Masked((READ, LABELS), np.zeros(EXAMPLES, bool))
    other = Masked((READ + 1, 2 - LABELS), np.zeros(EXAMPLES, bool))
    outputs = _answer(nothing, ASKED)
    assert np.isfinite(outputs).all()
    np.testing.assert_array_equal(outputs, _answer(other, ASKED))


def test_the_order_of_examples_matters():
    before = _answer((READ, LABELS), ASKED)
    after = _answer((READ[::-1], LABELS[::-1]), ASKED)
    assert np.abs(before - after).max() > 1e-2


def test_convolutions_alone_reach_from_the_last_place_to_the_first():
    params = dict(_params())
    for block in range(3):  # Attention reads zeros.
        values = jax.tree.map(np.zeros_like, params[f"attend_{block}"]["values"])
        params[f"attend_{block}"] = params[f"attend_{block}"] | {"values": values}
    features, labels = _normal(2, LENGTH, FEATURES), np.arange(LENGTH) % WAYS

    def answer(features):
        return _answer((features, labels), ASKED[:1], params).sum()

    slope = jax.jit(jax.grad(answer))(features)
    assert (np.abs(slope).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("sizes", [{"length": 0}, {"filters": 6}, {"outputs": 0}])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="filters a multiple of 4"):
        snail(**{"outputs": 2, "length": 3, "filters": 8} | sizes)


def test_more_examples_than_its_length_are_refused():
    pairs = np.ones((LENGTH + 1, FEATURES), np.float32), np.zeros(LENGTH + 1, int)
    with pytest.raises(ValueError, match="7 examples are more than its length, 6"):
        jax.eval_shape(partial(_answer.__wrapped__, pairs), ASKED)
