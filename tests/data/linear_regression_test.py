"""Linear regression tasks, and the costs that theory gives for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.linear_regression import LinearRegression, least_squares

NUM_TASKS, DIM, SHOTS = 4000, 4, 6


def _draw(sampler, num_tasks=NUM_TASKS):
    keys = jax.random.split(jax.random.key(0), num_tasks)
    return jax.device_get(jax.jit(jax.vmap(sampler))(keys))


@pytest.fixture(scope="module")
def tasks():
    return _draw(LinearRegression(DIM, SHOTS, queries=3))


@pytest.fixture(scope="module")
def weights(tasks):
    return np.linalg.pinv(tasks.support.inputs) @ tasks.support.targets


def _assert_standard_normal(values):
    assert abs(values.mean()) < 4 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / values.size)
    assert abs((values**4).mean() - 3) < 4 * np.sqrt(96 / values.size)


def test_inputs_and_weights_are_standard_normal_and_independent(tasks, weights):
    for values in (tasks.support.inputs, tasks.query.inputs, weights):
        _assert_standard_normal(values.astype(np.float64))
    together = [weights[:, 0, 0], tasks.support.inputs[:, 0, 0]]
    together += [tasks.support.inputs[:, 1, 0], tasks.query.inputs[:, 0, 0]]
    others = np.corrcoef(together) - np.eye(4)
    assert np.abs(others).max() < 4.5 / np.sqrt(NUM_TASKS)


def test_support_and_query_lie_on_one_plane(tasks, weights):
    np.testing.assert_allclose(
        tasks.query.inputs @ weights, tasks.query.targets, atol=2e-3
    )


def test_noise_has_the_given_scale_in_support_and_query(tasks):
    noisy = _draw(LinearRegression(DIM, SHOTS, queries=3, noise_std=0.5))
    for batch, clean in zip(noisy, tasks):
        noise = (batch.targets - clean.targets) / 0.5
        _assert_standard_normal(noise.astype(np.float64))


def _costs(tasks, num_shown, regularization=0.0):
    """Of least squares from the first examples of each task, `[tasks]`."""
    mask = np.arange(SHOTS) < num_shown

    def cost(task):
        support = task.support._replace(mask=mask)
        outputs = least_squares(support, task.query.inputs, regularization)
        return mj.losses.squared_error(outputs, task.query.targets)

    return np.asarray(jax.jit(jax.vmap(cost))(tasks), np.float64)


@pytest.mark.parametrize("num_shown", [0, 1, 3, 4])
def test_least_squares_costs_a_unit_for_each_dimension_that_is_not_seen(
    tasks, num_shown
):
    costs = _costs(tasks, num_shown)
    margin = 4 * costs.std() / np.sqrt(NUM_TASKS)
    assert abs(costs.mean() - (DIM - num_shown)) <= margin + 1e-3


def test_least_squares_equals_ridge_regression_and_leaves_padding_out(tasks):
    first = jax.tree.map(lambda x: x[0], tasks)
    points, targets, _ = first.support
    gram = points[:5].T @ points[:5] + 0.3 * np.eye(DIM)
    expected = first.query.inputs @ np.linalg.solve(gram, points[:5].T @ targets[:5])
    support = mj.Batch(points, targets, np.arange(SHOTS) < 5)
    actual = jax.jit(least_squares)(support, first.query.inputs, 0.3)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_the_variance_of_the_noise_is_the_best_regularization():
    noisy = _draw(LinearRegression(DIM, SHOTS, queries=3, noise_std=1.0))
    best, less, more = (_costs(noisy, SHOTS, r) for r in (1.0, 0.1, 4.0))
    for other in (less, more):  # Compared task by task.
        gaps = other - best
        assert gaps.mean() > 4 * gaps.std() / np.sqrt(NUM_TASKS)


def test_a_rebuilt_sampler_is_not_traced_again():
    traces = []

    @jax.jit
    def draw(sampler, key):
        traces.append(sampler)
        return sampler(key)

    one, again, other = (
        draw(LinearRegression(2, 3, 4), jax.random.key(k)) for k in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert jnp.all(one.support.targets != other.support.targets)
    assert len(traces) == 1


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1, -0.1)])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="noise_std at least 0: got"):
        LinearRegression(*sizes)
