"""Heads in closed form are what independent solvers find; padding is nothing to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from metajax import heads

WAYS = 3


def _features(seed, examples=7, features=5):
    return np.random.default_rng(seed).normal(size=(examples, features))


def _task(seed=0, examples=7, features=5):
    targets = np.arange(examples) % WAYS
    x = _features(seed, examples, features).astype(np.float32)
    return jnp.asarray(x), heads.memberships(jnp.asarray(targets), WAYS)


def _padded(features, members):
    junk = jnp.full((2, features.shape[1]), jnp.nan)
    none = jnp.zeros((2, WAYS))
    return jnp.concatenate([junk, features]), jnp.concatenate([none, members])


def test_memberships_of_padding_are_zeros():
    mask = jnp.array([True, False, True])
    rows = heads.memberships(jnp.array([2, 1, 0]), WAYS, mask)
    np.testing.assert_array_equal(rows, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])


def test_class_means_are_means_and_absent_classes_zero():
    features, members = _task(examples=5)
    members = members * jnp.array([1, 0, 1])[None]
    means = np.asarray(heads.class_means(features, members))
    for c in (0, 2):
        np.testing.assert_allclose(
            means[c], np.asarray(features)[np.arange(5) % WAYS == c].mean(0), rtol=1e-5
        )
    np.testing.assert_array_equal(means[1], np.zeros(5))


def test_absent_classes_are_never_predicted_and_cost_no_infinite_loss():
    logits = heads.hide_absent(jnp.array([[1.0, 99.0, 0.0]]), jnp.array([1, 0, 2]))
    assert jnp.argmax(logits) == 0
    assert np.isfinite(-jax.nn.log_softmax(logits)[0, 1])


def test_distances_and_cosines_are_those_of_the_definition():
    a, b = _features(0, 4).astype(np.float32), _features(1, 6).astype(np.float32)
    differences = a[:, None] - b[None]
    np.testing.assert_allclose(
        heads.squared_distances(a, b), (differences**2).sum(-1), rtol=1e-4, atol=1e-5
    )
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    np.testing.assert_allclose(heads.cosines(a, b), a @ b.T / lengths, atol=1e-6)


def test_the_cosine_with_zero_is_zero_and_has_a_derivative():
    zero, other = jnp.zeros((1, 3)), jnp.ones((1, 3))
    value, slope = jax.value_and_grad(lambda a: heads.cosines(a, other).sum())(zero)
    assert value == 0 and np.isfinite(slope).all()


@pytest.mark.parametrize("shape", [(7, 20), (7, 5), (7, 7)])
@pytest.mark.parametrize("regularization", [1e-3, 1.0])
def test_ridge_solves_the_normal_equations(shape, regularization):
    features, members = _task(0, *shape)
    x, y = np.asarray(features, np.float64), np.asarray(members, np.float64)
    matrix = x.T @ x + regularization * np.eye(shape[1])
    np.testing.assert_allclose(
        heads.ridge(features, members, regularization),
        np.linalg.solve(matrix, x.T @ y),
        rtol=2e-3,
        atol=2e-4,
    )


def test_ridge_of_repeated_examples_stays_finite_at_any_regularization():
    features = jnp.ones((6, 40)) * 100
    weights = heads.ridge(
        features, heads.memberships(jnp.arange(6) % WAYS, WAYS), 1e-20
    )
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("regularization", [0.1, 1.0])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_logistic_finds_what_a_library_finds(regularization, scale):
    features, members = _task()
    features = scale * features
    x, y = np.asarray(features, np.float64), np.asarray(members, np.float64)

    def objective(flat):
        weights = flat.reshape(x.shape[1], WAYS)
        logits = x @ weights
        top = logits.max(1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        loss = (log_sum - (y * logits).sum(1)).sum()
        return loss + regularization / 2 * (weights**2).sum()

    found = scipy.optimize.minimize(objective, np.zeros(x.shape[1] * WAYS), tol=1e-10)
    weights = jax.jit(heads.logistic)(features, members, regularization)
    np.testing.assert_allclose(
        weights, found.x.reshape(x.shape[1], WAYS), atol=2e-3 / scale
    )


@pytest.mark.parametrize(
    "fit, regularization, h",
    [(heads.logistic, 0.5, 3e-2), (heads.support_vectors, 3.0, 3e-3)],  # No kink near.
)
def test_the_derivative_is_that_of_the_optimum(fit, regularization, h):
    features, members = _task()
    target = jnp.asarray(_features(3, 5, WAYS), jnp.float32)

    @jax.jit
    def value(features, regularization):
        return jnp.sum(target * fit(features, members, regularization))

    direction = jnp.asarray(_features(4), jnp.float32)
    by_features, by_ridge = jax.jit(jax.grad(value, (0, 1)))(features, regularization)
    ahead, behind = (value(features + s * direction, regularization) for s in (h, -h))
    np.testing.assert_allclose(
        jnp.sum(by_features * direction), (ahead - behind) / (2 * h), rtol=5e-3
    )
    ahead, behind = (value(features, regularization + s) for s in (h, -h))
    np.testing.assert_allclose(by_ridge, (ahead - behind) / (2 * h), rtol=1e-2)


@pytest.mark.parametrize("regularization", [0.1, 10.0])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_support_vectors_are_what_a_library_finds(regularization, scale):
    features, members = _task()
    features = scale * features
    x, y = np.asarray(features, np.float64), np.asarray(members, np.float64)
    size = x.shape[1] * WAYS

    def slacks(flat):  # What each example lacks to stand off from each class.
        logits = x @ flat[:size].reshape(-1, WAYS)
        right = (y * logits).sum(1, keepdims=True)
        return (flat[size:, None] - (logits - right + 1 - y)).ravel()

    none = np.zeros(size + len(x))
    slopes = np.stack([slacks(unit) - slacks(none) for unit in np.eye(len(none))], 1)
    costs = np.where(np.arange(len(none)) < size, regularization, 0)
    found = scipy.optimize.minimize(
        lambda flat: flat[size:].sum() + (costs * flat**2).sum() / 2,
        np.where(costs, 0, 2.0),
        jac=lambda flat: costs * flat + (costs == 0),
        constraints={"type": "ineq", "fun": slacks, "jac": lambda flat: slopes},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    weights = jax.jit(heads.support_vectors)(features, members, regularization)
    np.testing.assert_allclose(weights.ravel(), found.x[:size], atol=2e-3 / scale)


def _class_means(features, members, regularization):
    return regularization * heads.class_means(features, members)


@pytest.mark.parametrize(
    "fit", [heads.ridge, heads.logistic, heads.support_vectors, _class_means]
)
def test_padding_changes_no_head_and_no_gradient(fit):
    features, members = _task()

    @jax.jit
    def head_and_slope(features, members):
        def total(features):
            head = fit(features, members, 0.5)
            return jnp.sum(head**2), head

        slope, head = jax.grad(total, has_aux=True)(features)
        return head, slope

    head, slope = head_and_slope(*_padded(features, members))
    expected, expected_slope = head_and_slope(features, members)
    np.testing.assert_allclose(head, expected, atol=1e-5)
    np.testing.assert_allclose(slope[2:], expected_slope, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(slope[:2], jnp.zeros((2, features.shape[1])))
