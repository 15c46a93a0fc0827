"""Losses by hand, and what a mask means to them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import losses

LOGITS = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
LABELS = jnp.array([0, 1])


def test_cross_entropy_by_hand():
    expected = [np.log(np.exp(2) + 2) - 2, np.log(1 + np.exp(1) + np.exp(3)) - 1]
    actual = losses.cross_entropy(LOGITS, LABELS)
    np.testing.assert_allclose(actual, np.mean(expected), rtol=1e-6)


def test_accuracy_counts_the_largest_logit():
    assert losses.accuracy(LOGITS, LABELS) == 0.5


def test_squared_error_by_hand():
    outputs, targets = jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [1.0]])
    assert losses.squared_error(outputs, targets) == 2.5
    with pytest.raises(ValueError, match="differ"):
        losses.squared_error(outputs, targets[:, 0])


def test_gaussian_nll_by_hand():
    mean, std, targets = (jnp.full((2, 1), v) for v in (1.0, 2.0, 3.0))
    expected = 0.5 * np.log(2 * np.pi) + np.log(2) + 0.5
    actual = losses.gaussian_nll((mean, std), targets)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


CASES = {
    "cross_entropy": (jax.random.normal(jax.random.key(0), (4, 3)), jnp.arange(4) % 3),
    "accuracy": (jax.random.normal(jax.random.key(0), (4, 3)), jnp.arange(4) % 3),
    "squared_error": (jnp.arange(4.0)[:, None], jnp.ones((4, 1))),
    "gaussian_nll": ((jnp.arange(4.0)[:, None], jnp.ones((4, 1))), jnp.zeros((4, 1))),
}


@pytest.mark.parametrize("name", CASES)
def test_masked_examples_count_for_nothing(name):
    loss, (outputs, targets) = jax.jit(getattr(losses, name)), CASES[name]
    value_and_slope = jax.jit(jax.value_and_grad(getattr(losses, name)))
    whole = loss(*jax.tree.map(lambda x: x[:3], (outputs, targets)))
    mask = jnp.array([True, True, True, False])
    np.testing.assert_allclose(loss(outputs, targets, mask), whole, rtol=1e-6)
    assert loss(outputs, targets, jnp.zeros(4, bool)) == 0
    _, slope = value_and_slope(outputs, targets, mask)
    for junk in (np.nan, np.inf):
        spoiled, spoiled_targets = jax.tree.map(
            lambda x: x.at[3].set(junk if x.dtype == jnp.float32 else 99),  # noqa: B023
            (outputs, jnp.asarray(targets)),
        )
        actual, spoiled_slope = value_and_slope(spoiled, spoiled_targets, mask)
        np.testing.assert_allclose(actual, whole, rtol=1e-6)
        chex.assert_trees_all_close(spoiled_slope, slope, rtol=1e-6)


def column(x):
    return x[:, None]


@pytest.mark.parametrize("name", CASES)
def test_shapes_that_would_broadcast_are_refused(name):
    loss, (outputs, targets) = getattr(losses, name), CASES[name]
    square = jnp.broadcast_to(column(targets.reshape(4)), (4, 4))
    mask = jnp.array([True, True, True, False])
    for wrong in (column(targets.reshape(4))[..., None], targets[:1], square):
        for given in (None, mask):
            with pytest.raises(ValueError, match=f"^{name}: .*(differ|class labels)"):
                loss(outputs, wrong, given)
    for wrong in (mask[:1], column(mask), mask.astype(float), 2 * mask.astype(int)):
        with pytest.raises(ValueError, match=rf"{name}: mask must be bool\[4\]"):
            loss(outputs, targets, wrong)


def test_a_gaussian_of_columns_takes_targets_of_columns_alone():
    mean, std = jnp.arange(4.0)[:, None], jnp.ones((4, 1))
    expected = 0.5 * np.log(2 * np.pi) + np.mean(np.square([0, 1, 2, 3])) / 2
    actual = losses.gaussian_nll((mean, std), jnp.zeros((4, 1)))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"float32\[4,1\] and float32\[4\] differ"):
        losses.gaussian_nll((mean, std), jnp.zeros(4))


@pytest.mark.parametrize("name", ["cross_entropy", "accuracy"])
def test_labels_must_be_integers_of_a_class(name):
    loss, logits = getattr(losses, name), jnp.eye(3)
    for labels in (jnp.arange(3.0), jnp.eye(3, dtype=int), jnp.eye(3)):
        with pytest.raises(ValueError, match="must be class labels, int32.3.: got"):
            loss(logits, labels)
    for labels in (np.array([0, 1, -1]), jnp.array([0, 1, 3])):
        with pytest.raises(ValueError, match="of 3 classes must be from 0 to 2: got"):
            loss(logits, labels)
        assert np.isnan(jax.jit(loss)(logits, labels))  # Where they are not known.
        assert np.isfinite(loss(logits, labels, jnp.array([True, True, False])))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_accuracy_of_logits_that_are_not_finite_is_not_a_number(bad):
    logits = LOGITS.at[0].set(bad)
    assert np.isnan(losses.accuracy(logits, LABELS))
    assert losses.accuracy(logits, LABELS, jnp.array([False, True])) == 0
    assert losses.accuracy(LOGITS.at[0, 1].set(-1e9), LABELS) == 0.5


def test_logits_along_sequences_are_averaged_over_their_places():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 4))
    labels = jnp.array([[0, 1, 2], [3, 2, 1]])
    each = [losses.cross_entropy(*pair) for pair in zip(logits, labels)]
    actual = losses.cross_entropy(logits, labels)
    np.testing.assert_allclose(actual, np.mean(each), rtol=1e-6)
    masked = losses.cross_entropy(logits, labels, jnp.array([False, True]))
    np.testing.assert_allclose(masked, each[1], rtol=1e-6)
