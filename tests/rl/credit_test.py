"""Returns, advantages and the baseline, by hand and by other ways to the same numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from metajax import rl
from metajax.rl import credit

RNG = np.random.default_rng(0)
REWARDS, VALUES = RNG.normal(size=(2, 7)).astype(np.float32)


def test_an_example_worked_by_hand():
    rewards, values = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.0, 2.0])
    ends = jnp.array([False, True, False])
    # The last: 3 - 2; that before it ends an episode: 2 - 1; the first:
    # 1 + 0.9 * 1 - 0.5 + 0.9 * 0.5 * 1.
    found = credit.advantages(rewards, values, ends, discount=0.9, decay=0.5)
    np.testing.assert_allclose(found, [1.85, 1.0, 1.0], rtol=1e-6)
    found = credit.returns(rewards, ends, discount=0.9)
    np.testing.assert_allclose(found, [2.8, 2.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("discount", [0.0, 0.7, 1.0])
def test_with_decay_1_values_cancel_in_all_but_their_own_place(discount):
    found = credit.advantages(REWARDS, VALUES, None, discount, decay=1.0)
    expected = credit.returns(REWARDS, None, discount) - VALUES
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_with_decay_0_they_are_errors_of_one_step():
    found = credit.advantages(REWARDS, VALUES, None, 0.9, decay=0.0)
    expected = REWARDS + 0.9 * np.append(VALUES[1:], 0) - VALUES
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_baseline_that_can_be_exact_is():
    observations = RNG.normal(size=(6, 9, 2)).astype(np.float32)
    time = np.arange(9) / 100
    targets = 1 + observations @ [0.5, -2.0] + 3 * time - observations[..., 0] ** 2
    real = np.ones((6, 9), bool)
    real[:, 7:] = False
    spoilt = np.where(real, targets, np.nan)  # Padding may hold anything.
    found = credit.linear_baseline(observations, jnp.asarray(spoilt), jnp.asarray(real))
    np.testing.assert_allclose(found[:, :7], targets[:, :7], atol=2e-3)


def test_advantages_are_normalized_where_they_are_real():
    real = jnp.array([True, True, True, False])
    found = rl.normalize(jnp.array([1.0, 2.0, 6.0, 1e9]), real)
    np.testing.assert_allclose(np.mean(found[:3]), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(found[:3]), 1, rtol=1e-5)
    assert found[3] == 0
