"""The inner loop's derivative against closed forms, differences, and its own parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import adjoints

RATE, NUM_STEPS = 0.1, 4


def quadratic(params, args):
    """0.5 p'Ap - b'p, whose gradient is Ap - b."""
    matrix, vector = args
    return 0.5 * params @ matrix @ params - vector @ params


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(3, 3))
    matrix = jnp.asarray(factor @ factor.T + np.eye(3), jnp.float32)
    vector, params, weights = jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)
    return params, (matrix, vector), weights


def solve_sgd(**kwargs):
    return adjoints.unroll(**kwargs)(quadratic, optax.sgd(RATE), NUM_STEPS)


def test_value_is_that_of_the_closed_form(problem):
    params, (matrix, vector), _ = problem
    # p[t+1] - p* = (I - rate A) (p[t] - p*) with the minimum p* = A^-1 b.
    minimum = jnp.linalg.solve(matrix, vector)
    contraction = jnp.linalg.matrix_power(jnp.eye(3) - RATE * matrix, NUM_STEPS)
    expected = minimum + contraction @ (params - minimum)
    for last in (None, 0, 2):
        actual = solve_sgd(last=last)(params, (matrix, vector))
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("last", [0, 1, 3, 4, None])
def test_gradient_to_params_is_a_power_of_the_contraction(problem, last):
    params, args, weights = problem
    # dp[t+1]/dp[t] = I - rate A where the step is exact, I where it is first-order.
    power = NUM_STEPS if last is None else last
    contraction = jnp.linalg.matrix_power(jnp.eye(3) - RATE * args[0], power)
    solve = solve_sgd(last=last)
    actual = jax.grad(lambda p: weights @ solve(p, args))(params)
    np.testing.assert_allclose(actual, contraction.T @ weights, rtol=1e-4)


@pytest.mark.parametrize("last", [0, 2, None])
def test_gradient_to_args_is_a_geometric_sum(problem, last):
    params, (matrix, vector), weights = problem
    # dp[T]/db = rate * sum over exact steps j of (I - rate A)^j.
    powers = NUM_STEPS if last is None else last
    contraction = jnp.eye(3) - RATE * matrix
    total = sum(
        (jnp.linalg.matrix_power(contraction, j) for j in range(powers)),
        start=jnp.zeros((3, 3)),
    )
    solve = solve_sgd(last=last)
    actual = jax.grad(lambda b: weights @ solve(params, (matrix, b)))(vector)
    np.testing.assert_allclose(actual, RATE * total.T @ weights, rtol=1e-4, atol=1e-7)


def network_loss(params, batch):
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["in"] + params["bias"][None])
    return jnp.mean((hidden @ params["out"] - targets) ** 2)


def network_problem(dtype=jnp.float32):
    rng = np.random.default_rng(1)
    shapes = {"in": (2, 5), "bias": (5,), "out": (5, 1)}
    params = {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}
    batches = [
        (jnp.asarray(rng.normal(size=(6, 2)), dtype), jnp.ones((6, 1), dtype))
        for _ in range(2)
    ]
    return params, *batches


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1), optax.sgd(0.1, momentum=0.9), optax.adam(0.1, eps_root=1e-4)],
    ids=["sgd", "momentum", "adam"],
)
def test_exact_gradient_equals_finite_differences(optimizer):
    with jax.enable_x64(True):
        params, support, query = network_problem(jnp.float64)
        solve = adjoints.unroll()(network_loss, optimizer, 3)

        def outer(scale, shift):
            moved = jax.tree.map(lambda p: scale * p + shift, params)
            return network_loss(solve(moved, support), query)

        def difference(i):
            up, down = [1.0, 0.0], [1.0, 0.0]
            up[i] += 1e-5
            down[i] -= 1e-5
            return (outer(*up) - outer(*down)) / 2e-5

        actual = jax.grad(outer, argnums=(0, 1))(1.0, 0.0)
        np.testing.assert_allclose(actual, [difference(0), difference(1)], rtol=1e-4)


def test_second_order_differs_from_first_order_by_the_hessian_term():
    params, support, query = network_problem()

    def meta_gradient(last):
        solve = adjoints.unroll(last)(network_loss, optax.sgd(RATE), 1)
        return jax.grad(lambda p: network_loss(solve(p, support), query))(params)

    # d/dp L(p - rate g(p)) = v - rate H v, with v the query gradient after the step.
    first, second = meta_gradient(0), meta_gradient(1)
    hessian_product = jax.jvp(
        lambda p: jax.grad(network_loss)(p, support), (params,), (first,)
    )[1]
    expected = jax.tree.map(lambda v, hv: v - RATE * hv, first, hessian_product)
    for key in params:
        np.testing.assert_allclose(second[key], expected[key], rtol=1e-4, atol=1e-6)
        assert not np.allclose(first[key], second[key], rtol=1e-3)


def test_truncation_climbs_from_first_order_to_exact(problem):
    params, args, weights = problem

    def gradient(last):
        solve = solve_sgd(last=last)
        return jax.grad(lambda p: weights @ solve(p, args))(params)

    exact = gradient(None)
    errors = [float(jnp.linalg.norm(gradient(k) - exact)) for k in range(NUM_STEPS + 1)]
    assert all(late < early for early, late in zip(errors, errors[1:]))
    assert errors[-1] == 0


def test_first_order_keeps_the_gradient_to_the_rate(problem):
    params, args, weights = problem

    def outer(rate):
        return weights @ adjoints.unroll(0)(quadratic, optax.sgd(rate), 1)(params, args)

    expected = -weights @ jax.grad(quadratic)(params, args)
    np.testing.assert_allclose(jax.grad(outer)(RATE), expected, rtol=1e-4)


def test_an_optimizer_built_from_meta_parameters_is_differentiated(problem):
    """Learned rates: p1 = p0 - rate * g(p0), whose slope in rate is -g(p0)."""
    params, args, weights = problem

    def outer(rates):
        optimizer = optax.GradientTransformation(
            lambda params: (), lambda grads, state, params: (-rates * grads, state)
        )
        return weights @ adjoints.unroll()(quadratic, optimizer, 1)(params, args)

    expected = -weights * jax.grad(quadratic)(params, args)
    actual = jax.jit(jax.grad(outer))(jnp.full(3, RATE))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_no_steps_return_the_params(problem):
    params, args, _ = problem
    solve = adjoints.unroll()(quadratic, optax.sgd(RATE), 0)
    np.testing.assert_array_equal(solve(params, args), params)


UNSAFE = {
    "adam": optax.adam(0.1),
    "rmsprop": optax.rmsprop(0.1, eps_in_sqrt=False),
    "clip_by_global_norm": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_optimizers_that_give_nan_are_refused_with_the_remedy(name):
    optimizer = UNSAFE[name]
    params = jnp.zeros(2)

    def flat(params, args):  # A gradient of exactly zero, as that of a dead unit.
        return jnp.sum(params**2)

    def unguarded(params):
        updates, _ = optimizer.update(
            jax.grad(flat)(params, ()), optimizer.init(params), params
        )
        return jnp.sum(params + updates)

    assert np.isnan(jax.grad(unguarded)(params)).any()
    solve = adjoints.unroll()(flat, optimizer, 1)
    with pytest.raises(ValueError, match="eps_root"):
        jax.jit(jax.vmap(solve, (0, None)))(params[None], ())
    first_order = adjoints.unroll(last=0)(flat, optimizer, 1)
    assert np.isfinite(jax.grad(lambda p: first_order(p, ()).sum())(params)).all()


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.adam(0.1, eps_root=1e-8),
        optax.adamw(0.1, eps_root=1e-8),
        optax.chain(optax.clip(1.0), optax.sgd(0.1)),
    ],
)
def test_optimizers_with_finite_derivatives_pass(optimizer):
    params, support, query = network_problem()
    solve = adjoints.unroll()(network_loss, optimizer, 2)
    grads = jax.grad(lambda p: network_loss(solve(p, support), query))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bad_numbers_of_steps_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        adjoints.unroll(last=-1)
    with pytest.raises(ValueError, match="at most the number of inner steps"):
        adjoints.unroll(last=3)(quadratic, optax.sgd(RATE), 2)
