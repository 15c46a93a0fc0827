"""Losses by hand, and what a mask means to them."""

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
    loss, (outputs, targets) = getattr(losses, name), CASES[name]
    whole = loss(*jax.tree.map(lambda x: x[:3], (outputs, targets)))
    mask = jnp.array([True, True, True, False])
    spoiled = jax.tree.map(
        lambda x: x.at[3].set(jnp.nan) if x.dtype == jnp.float32 else x, outputs
    )
    np.testing.assert_allclose(loss(outputs, targets, mask), whole, rtol=1e-6)
    np.testing.assert_allclose(loss(spoiled, targets, mask), whole, rtol=1e-6)
    assert loss(outputs, targets, jnp.zeros(4, bool)) == 0
