"""Draws of a Gaussian process, and its posterior by an independent computation."""

import jax
import numpy as np
import pytest

import metajax as mj
from metajax.data.gaussian_process import GaussianProcess

NUM_TASKS = 4000
SAMPLER = GaussianProcess(5, 4, length_scale=0.7, noise_std=0.2, inputs=(-1.0, 1.5))


@pytest.fixture(scope="module")
def tasks():
    keys = jax.random.split(jax.random.key(0), NUM_TASKS)
    return jax.device_get(jax.jit(jax.vmap(SAMPLER))(keys))


@pytest.fixture(scope="module")
def posteriors(tasks):
    posterior = jax.jit(jax.vmap(SAMPLER.posterior))
    return jax.device_get(posterior(tasks.support, tasks.query.inputs))


def _covariance(a, b):
    return np.exp(-((a[:, None] - b[None]) ** 2) / (2 * 0.7**2))


def test_targets_have_the_covariance_of_the_kernel_and_the_noise(tasks):
    inputs, targets = (
        np.concatenate([s, q], axis=1)[..., 0].astype(np.float64)
        for s, q in zip(tasks.support[:2], tasks.query[:2])
    )
    assert inputs.min() >= -1 and inputs.max() < 1.5
    assert abs(inputs.mean() - 0.25) < 4 * inputs.std() / np.sqrt(inputs.size)
    # Whitened by the covariance that is claimed, they are independent and standard.
    white = np.stack(
        [
            np.linalg.solve(
                np.linalg.cholesky(_covariance(x, x) + 0.2**2 * np.eye(9)), y
            )
            for x, y in zip(inputs, targets)
        ]
    )
    error = np.abs(white.T @ white / NUM_TASKS - np.eye(9))
    assert error.max() < 5 * np.sqrt(2 / NUM_TASKS)
    assert np.abs(white.mean(axis=0)).max() < 4.5 / np.sqrt(NUM_TASKS)
    for i in (0, 5):
        for j in (1, 8):
            ranks = np.corrcoef(inputs[:, i], inputs[:, j])[0, 1]
            assert abs(ranks) < 4.5 / np.sqrt(NUM_TASKS)


def test_the_posterior_is_that_of_the_joint_covariance(tasks, posteriors):
    for t in range(20):
        (x, y, _), (asked, _, _) = jax.tree.map(
            lambda leaf: leaf[t, :, 0].astype(np.float64),  # noqa: B023
            tasks,
        )
        known = np.linalg.inv(_covariance(x, x) + 0.2**2 * np.eye(5))
        across = _covariance(asked, x)
        variance = 1 + 0.2**2 - np.diag(across @ known @ across.T)
        mean, std = (leaf[t, :, 0] for leaf in posteriors)
        np.testing.assert_allclose(mean, across @ known @ y, atol=1e-3)
        np.testing.assert_allclose(std, np.sqrt(variance), atol=1e-3)


def test_errors_of_the_posterior_are_standard_normal(tasks, posteriors):
    mean, std = posteriors
    errors = ((tasks.query.targets - mean) / std)[:, 0, 0].astype(np.float64)
    assert abs(errors.mean()) < 4 / np.sqrt(NUM_TASKS)
    assert abs(errors.var() - 1) < 4 * np.sqrt(2 / NUM_TASKS)


@pytest.mark.parametrize("real", [0, 3])
def test_padding_is_left_out_and_without_examples_the_posterior_is_the_prior(
    tasks, real
):
    support, query = jax.tree.map(lambda leaf: leaf[0], tasks)
    mask = np.array([1, 0, 1, 1, 0], bool) & (real > 0)
    junk = mj.Batch(
        np.where(mask[:, None], support.inputs, 1),
        np.where(mask[:, None], support.targets, 9),
        mask,
    )
    mean, std = jax.jit(SAMPLER.posterior)(junk, query.inputs)
    if not real:
        np.testing.assert_allclose(mean, np.zeros((4, 1)), atol=1e-6)
        np.testing.assert_allclose(std, np.full((4, 1), np.sqrt(1.04)), atol=1e-6)
        return
    absent = mj.Batch(support.inputs[mask], support.targets[mask])
    expected = jax.jit(SAMPLER.posterior)(absent, query.inputs)
    np.testing.assert_allclose(mean, expected[0], atol=1e-5)
    np.testing.assert_allclose(std, expected[1], atol=1e-5)


def test_many_close_points_with_little_noise_stay_finite():
    sampler = GaussianProcess(100, 100, length_scale=2.0, noise_std=0.01)
    task = jax.jit(sampler)(jax.random.key(0))
    mean, std = jax.jit(sampler.posterior)(task.support, task.query.inputs)
    assert np.isfinite(task.query.targets).all()
    assert np.isfinite(mean).all() and np.isfinite(std).all()
    assert np.abs(task.query.targets - mean).max() < 0.1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"shots": 0}, "at least 1: got 0, 4"),
        ({"queries": 0}, "at least 1: got 5, 0"),
        ({"length_scale": 0.0}, "length_scale must be positive"),
        ({"noise_std": 0.001}, "noise_std at least 0.01"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianProcess(**{"shots": 5, "queries": 4} | arguments)
