"""Sinusoid tasks follow the distribution of Finn et al. 2017, section 5.1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.sinusoid import Sinusoid

NUM_TASKS = 2000


@pytest.fixture(scope="module")
def tasks():
    keys = jax.random.split(jax.random.key(0), NUM_TASKS)
    return jax.device_get(jax.jit(jax.vmap(Sinusoid(shots=10, queries=20)))(keys))


@pytest.fixture(scope="module")
def curves(tasks):
    """Amplitude and phase of each task, by least squares on its support points.

    amplitude sin(x - phase) = a sin x + b cos x,  a, b = amplitude (cos, -sin) phase
    """
    fits = []
    for x, y in zip(tasks.support.inputs[..., 0], tasks.support.targets[..., 0]):
        basis = np.stack([np.sin(x), np.cos(x)], axis=1).astype(np.float64)
        fits.append(np.linalg.lstsq(basis, y.astype(np.float64))[0])
    a, b = np.array(fits).T
    return np.hypot(a, b), np.arctan2(-b, a)


def _assert_uniform(values, low, high):
    """Kolmogorov-Smirnov at a level of 1e-5, for draws that a fixed key repeats."""
    ranks = (np.arange(len(values)) + 0.5) / len(values)
    gap = np.abs((np.sort(values) - low) / (high - low) - ranks).max()
    assert gap < 2.47 / np.sqrt(len(values))


def test_amplitude_and_phase_are_uniform_and_independent(curves):
    amplitude, phase = curves
    assert amplitude.min() > 0.1 - 1e-4 and amplitude.max() < 5 + 1e-4
    _assert_uniform(amplitude, 0.1, 5.0)
    _assert_uniform(phase, 0.0, np.pi)
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 4 / np.sqrt(NUM_TASKS)


def test_support_and_query_lie_on_one_noiseless_curve(tasks, curves):
    amplitude, phase = (parameter[:, None] for parameter in curves)
    for batch in tasks:
        expected = amplitude * np.sin(batch.inputs[..., 0] - phase)
        np.testing.assert_allclose(batch.targets[..., 0], expected, atol=1e-4)


def test_inputs_are_uniform_and_independent_in_support_and_query(tasks):
    support, query = tasks.support.inputs[..., 0], tasks.query.inputs[..., 0]
    for inputs in (support, query):
        assert inputs.min() >= -5 and inputs.max() < 5
        _assert_uniform(inputs.ravel(), -5.0, 5.0)
    assert abs(np.corrcoef(support[:, 0], query[:, 0])[0, 1]) < 4 / np.sqrt(NUM_TASKS)
    assert abs(np.corrcoef(support[:, 0], support[:, 1])[0, 1]) < 4 / np.sqrt(NUM_TASKS)


def test_predicting_zero_costs_half_the_mean_squared_amplitude(tasks, curves):
    """E amplitude^2 / 2 = 4.25: a phase uniform over half a period averages sin^2."""
    costs = np.square(tasks.query.targets).mean((1, 2), dtype=np.float64)
    expected = (5**3 - 0.1**3) / (3 * 4.9) / 2
    assert abs(expected - 4.25) < 0.01
    assert abs(costs.mean() - expected) < 4 * costs.std() / np.sqrt(NUM_TASKS)
    # Task by task the cost is that of the curve over all inputs, up to 20 points.
    amplitude, phase = curves
    exact = amplitude**2 / 2 * (1 - np.sin(10) / 10 * np.cos(2 * phase))
    errors = costs - exact
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(NUM_TASKS)
    assert np.corrcoef(costs, exact)[0, 1] > 0.95


def test_given_bounds_are_respected():
    sampler = Sinusoid(5, 5, amplitude=(2.0, 2.0), phase=(1.0, 1.0), inputs=(3.0, 4.0))
    for batch in sampler(jax.random.key(0)):
        assert (batch.inputs >= 3).all() and (batch.inputs < 4).all()
        np.testing.assert_allclose(
            batch.targets, 2 * np.sin(np.asarray(batch.inputs) - 1), atol=1e-5
        )


def test_at_asks_the_same_curve_at_the_given_points():
    sampler, key = Sinusoid(shots=3, queries=1), jax.random.key(1)
    grid = jnp.linspace(-5, 5, 7)[:, None]
    whole, first = sampler.at(key, grid), sampler.at(key, grid[:2])
    np.testing.assert_array_equal(whole.query.inputs, grid)
    jax.tree.map(np.testing.assert_array_equal, whole.support, first.support)
    np.testing.assert_allclose(whole.query.targets[:2], first.query.targets, atol=1e-6)
    again = sampler.at(key, whole.support.inputs)
    np.testing.assert_allclose(again.query.targets, whole.support.targets, atol=1e-6)


def test_a_rebuilt_sampler_is_not_traced_again_and_another_key_is_another_task():
    traces = []

    @jax.jit
    def draw(sampler, key):
        traces.append(sampler)
        return sampler(key)

    one, again, other = (draw(Sinusoid(3, 4), jax.random.key(k)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert np.all(one.support.targets != other.support.targets)
    assert len(traces) == 1


@pytest.mark.parametrize("shots, queries", [(0, 5), (5, 0)])
def test_tasks_without_points_are_refused(shots, queries):
    with pytest.raises(ValueError, match=f"at least 1: got {shots}, {queries}"):
        Sinusoid(shots, queries)
