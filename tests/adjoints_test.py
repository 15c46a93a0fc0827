"""The inner loop's derivative against closed forms, differences, and its own parts."""

from functools import cache, partial

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
    matrix = np.asarray(factor @ factor.T + np.eye(3), np.float32)
    vector, params, weights = np.asarray(rng.normal(size=(3, 3)), np.float32)
    return params, (matrix, vector), weights


def solve_sgd(**kwargs):
    return adjoints.unroll(**kwargs)(quadratic, optax.sgd(RATE), NUM_STEPS)


@cache
def gradients_sgd(last):
    """Of the weighted result, to the params and to the vector: for all tests below."""

    def outer(params, args, weights):
        return weights @ solve_sgd(last=last)(params, args)

    return jax.jit(jax.grad(outer, (0, 1)))


def test_value_is_that_of_the_closed_form(problem):
    params, (matrix, vector), _ = problem
    # p[t+1] - p* = (I - rate A) (p[t] - p*) with the minimum p* = A^-1 b.
    minimum = np.linalg.solve(matrix, vector)
    contraction = np.linalg.matrix_power(np.eye(3) - RATE * matrix, NUM_STEPS)
    expected = minimum + contraction @ (params - minimum)
    for last in (None, 0, 2):
        actual = jax.jit(solve_sgd(last=last))(params, (matrix, vector))
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("last", [0, 1, 3, 4, None])
def test_gradient_to_params_is_a_power_of_the_contraction(problem, last):
    params, args, weights = problem
    # dp[t+1]/dp[t] = I - rate A where the step is exact, I where it is first-order.
    power = NUM_STEPS if last is None else last
    contraction = np.linalg.matrix_power(np.eye(3) - RATE * args[0], power)
    actual, _ = gradients_sgd(last)(params, args, weights)
    np.testing.assert_allclose(actual, contraction.T @ weights, rtol=1e-4)


@pytest.mark.parametrize("last", [0, 2, None])
def test_gradient_to_args_is_a_geometric_sum(problem, last):
    params, args, weights = problem
    # dp[T]/db = rate * sum over exact steps j of (I - rate A)^j.
    powers = NUM_STEPS if last is None else last
    contraction = np.eye(3) - RATE * args[0]
    total = sum(
        (np.linalg.matrix_power(contraction, j) for j in range(powers)),
        start=np.zeros((3, 3)),
    )
    _, (_, actual) = gradients_sgd(last)(params, args, weights)
    np.testing.assert_allclose(actual, RATE * total.T @ weights, rtol=1e-4, atol=1e-7)


def network_loss(params, batch):
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["in"] + params["bias"][None])
    return jnp.mean((hidden @ params["out"] - targets) ** 2)


def network_problem(dtype=np.float32):
    rng = np.random.default_rng(1)
    shapes = {"in": (2, 5), "bias": (5,), "out": (5, 1)}
    params = {k: np.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}
    batches = [
        (np.asarray(rng.normal(size=(6, 2)), dtype), np.ones((6, 1), dtype))
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
        params, support, query = network_problem(np.float64)
        solve = adjoints.unroll()(network_loss, optimizer, 3)

        def outer(scale, shift):
            moved = jax.tree.map(lambda p: scale * p + shift, params)
            return network_loss(solve(moved, support), query)

        value_and_slopes = jax.jit(jax.value_and_grad(outer, argnums=(0, 1)))

        def difference(*along):
            (up, _), (down, _) = (
                value_and_slopes(1 + size * along[0], size * along[1])
                for size in (1e-5, -1e-5)
            )
            return (up - down) / 2e-5

        _, actual = value_and_slopes(1.0, 0.0)
        np.testing.assert_allclose(
            actual, [difference(1, 0), difference(0, 1)], rtol=1e-4
        )


def test_second_order_differs_from_first_order_by_the_hessian_term():
    params, support, query = network_problem()

    def meta_gradient(last, params):
        solve = adjoints.unroll(last)(network_loss, optax.sgd(RATE), 1)
        return jax.grad(lambda p: network_loss(solve(p, support), query))(params)

    @jax.jit
    def of_orders(params):
        first, second = meta_gradient(0, params), meta_gradient(1, params)
        hessian_product = jax.jvp(
            lambda p: jax.grad(network_loss)(p, support), (params,), (first,)
        )[1]
        return first, second, hessian_product

    # d/dp L(p - rate g(p)) = v - rate H v, with v the query gradient after the step.
    first, second, hessian_product = of_orders(params)
    expected = jax.tree.map(lambda v, hv: v - RATE * hv, first, hessian_product)
    for key in params:
        np.testing.assert_allclose(second[key], expected[key], rtol=1e-4, atol=1e-6)
        assert not np.allclose(first[key], second[key], rtol=1e-3)


def test_truncation_climbs_from_first_order_to_exact(problem):
    exact, *truncated = (
        gradients_sgd(last)(*problem)[0] for last in (None, *range(NUM_STEPS + 1))
    )
    errors = [np.linalg.norm(gradient - exact) for gradient in truncated]
    assert all(late < early for early, late in zip(errors, errors[1:]))
    assert errors[-1] == 0


def test_first_order_keeps_the_gradient_to_the_rate(problem):
    params, args, weights = problem

    def outer(rate):
        return weights @ adjoints.unroll(0)(quadratic, optax.sgd(rate), 1)(params, args)

    expected = -weights @ jax.grad(quadratic)(params, args)
    np.testing.assert_allclose(jax.jit(jax.grad(outer))(RATE), expected, rtol=1e-4)


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
    params = np.zeros(2, np.float32)

    def flat(params, args):  # A gradient of exactly zero, as that of a dead unit.
        return jnp.sum(params**2)

    def unguarded(params):
        updates, _ = optimizer.update(
            jax.grad(flat)(params, ()), optimizer.init(params), params
        )
        return jnp.sum(params + updates)

    assert np.isnan(jax.jit(jax.grad(unguarded))(params)).any()
    solve = adjoints.unroll()(flat, optimizer, 1)
    with pytest.raises(ValueError, match="eps_root"):
        jax.jit(jax.vmap(solve, (0, None)))(params[None], ())
    first_order = adjoints.unroll(last=0)(flat, optimizer, 1)
    slope = jax.jit(jax.grad(lambda params: first_order(params, ()).sum()))(params)
    assert np.isfinite(slope).all()


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
    grads = jax.jit(jax.grad(lambda p: network_loss(solve(p, support), query)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bad_numbers_of_steps_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        adjoints.unroll(last=-1)
    with pytest.raises(ValueError, match="at most the number of inner steps"):
        adjoints.unroll(last=3)(quadratic, optax.sgd(RATE), 2)


STEPS = 5


def minibatch_loss(params, args, own):
    """Of one layer on a minibatch: args scale inputs, own has integers too."""
    inputs, labels = own
    logits = jnp.tanh((inputs * args[None]) @ params["kernel"] + params["bias"][None])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def minibatch_problem():
    rng = np.random.default_rng(2)
    shapes = {"kernel": (2, 3), "bias": (3,)}
    params = {k: rng.normal(size=s) for k, s in shapes.items()}
    inputs = rng.normal(size=(STEPS, 6, 2))
    labels = rng.integers(0, 3, (STEPS, 6))
    # Weights of every number in the iterates, so that each has its part in the gradient.
    weights = {k: rng.normal(size=(STEPS + 1, *s)) for k, s in shapes.items()}
    return params, rng.normal(size=2), inputs, labels, weights


def plain_loop(params, args, inputs, labels, last, frozen=()):
    """The iterates, by a loop in Python: momentum written out."""
    velocity, iterates = jax.tree.map(jnp.zeros_like, params), [params]
    for t in range(STEPS):
        grads = jax.grad(minibatch_loss)(params, args, (inputs[t], labels[t]))
        if t < STEPS - last:
            grads = jax.lax.stop_gradient(grads)
        grads = {k: 0 * g if k in frozen else g for k, g in grads.items()}
        velocity = {k: 0.9 * velocity[k] + g for k, g in grads.items()}
        params = {k: params[k] - 0.3 * velocity[k] for k in params}
        iterates.append(params)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *iterates)


@cache
def plain_values():
    return jax.jit(partial(plain_loop, last=0))(*minibatch_problem()[:4])


def solved(adjoint):
    def iterates(params, args, inputs, labels):
        solve = adjoint(minibatch_loss, optax.sgd(0.3, momentum=0.9), STEPS)
        return solve(params, args, (inputs, labels), iterates=True)

    return iterates


def values_and_gradients(loop):
    """Iterates, and gradients to params, args and what each step has."""
    params, args, inputs, labels, weights = minibatch_problem()

    def outer(params, args, inputs):
        iterates = loop(params, args, inputs, labels)
        return optax.tree.vdot(weights, iterates), iterates

    return jax.jit(jax.grad(outer, (0, 1, 2), has_aux=True))(params, args, inputs)


def assert_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        actual,
        expected,
    )


# By the last steps that are differentiated. Steps that are not are recomputed like those
# that are: where there are both, each adjoint and each way to recompute is met once.
REMATS = {
    None: [
        (make, remat)
        for make in (adjoints.unroll, adjoints.mixed_mode)
        for remat in ("none", "step", "nested", "tree")
    ],
    0: [(adjoints.unroll, "none"), (adjoints.mixed_mode, "none")],
    2: [
        (adjoints.unroll, "none"),
        (adjoints.unroll, "nested"),
        (adjoints.mixed_mode, "step"),
        (adjoints.mixed_mode, "tree"),
    ],
}


@pytest.mark.parametrize("last", REMATS)
def test_steps_of_their_own_and_iterates_equal_a_plain_loop_in_every_adjoint(last):
    with jax.enable_x64(True):
        exact_steps = STEPS if last is None else last
        expected = values_and_gradients(partial(plain_loop, last=exact_steps))
        assert all(np.abs(leaf).max() > 1e-2 for leaf in jax.tree.leaves(expected[1]))
        if exact_steps:
            by_step = np.abs(expected[0][2]).max((1, 2))  # To inputs of each step.
            assert ((by_step > 1e-3) == (np.arange(STEPS) >= STEPS - exact_steps)).all()
        for make, remat in REMATS[last]:
            actual = values_and_gradients(solved(make(last, remat=remat)))
            assert_close(actual, expected)


def test_only_gives_iterates_of_all_params_and_passes_on_what_steps_have():
    with jax.enable_x64(True):
        loop = partial(plain_loop, last=STEPS, frozen=("bias",))
        expected = values_and_gradients(loop)
        adjoint = adjoints.only("kernel", adjoints.mixed_mode(remat="nested"))
        assert_close(values_and_gradients(solved(adjoint)), expected)


@pytest.mark.parametrize("remat", ["none", "step", "nested"])
def test_the_result_is_the_last_iterate(remat):
    params, args, inputs, labels, _ = minibatch_problem()
    adjoint = adjoints.unroll(2, remat=remat)
    solve = adjoint(minibatch_loss, optax.sgd(0.3, momentum=0.9), STEPS)
    result = jax.jit(solve)(params, args, (inputs, labels))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[-1], rtol=1e-4, atol=1e-6),
        result,
        plain_values(),
    )


@pytest.mark.parametrize("remat", ["none", "step", "nested"])
def test_no_steps_have_one_iterate(problem, remat):
    params, args, _ = problem
    solve = adjoints.unroll(remat=remat)(quadratic, optax.sgd(RATE), 0)
    iterates = solve(params, args, iterates=True)
    np.testing.assert_array_equal(iterates, params[None])


def test_what_steps_have_must_be_of_their_number(problem):
    params, args, _ = problem

    def loss(params, args, own):
        return own * quadratic(params, args)

    for adjoint in (adjoints.unroll(), adjoints.mixed_mode(), adjoints.unroll(0)):
        solve = adjoint(loss, optax.sgd(RATE), 4)
        for length in (1, 3, 5):
            message = (
                rf"each of the 4 inner steps: its leaves have shapes \({length},\)"
            )
            with pytest.raises(ValueError, match=message):
                solve(params, args, jnp.ones(length))
        with pytest.raises(ValueError, match=r"its leaves have shapes \(\)"):
            solve(params, args, 1.0)


GROUPS = {"body": {"kernel": 2.0, "bias": 3.0}, "head": {"kernel": 5.0, "bias": 7.0}}


def half_square(params, args):
    """Whose gradient is the params, so that a step multiplies each by 1 - rate."""
    del args
    return 0.5 * optax.tree.norm(params, squared=True)


def by_path_solved(rates, adjoint=None):
    """The params after two steps, and their derivative by where they started."""
    optimizer = adjoints.by_path({p: optax.sgd(r) for p, r in rates.items()})
    params = jax.tree.map(lambda x: np.full(2, x, np.float32), GROUPS)

    def outer(params):
        solve = (adjoint or adjoints.unroll())(half_square, optimizer, 2)
        result = solve(params, ())
        return sum(leaf.sum() for leaf in jax.tree.leaves(result)), result

    slopes, result = jax.jit(jax.grad(outer, has_aux=True))(params)
    return result, slopes


@pytest.mark.parametrize("adjoint", [adjoints.unroll(), adjoints.mixed_mode()])
def test_by_path_gives_each_group_the_rate_of_its_first_pattern(adjoint):
    rates = {"head/bias": 0.0, "head/*": 0.1, "*": 0.5}
    result, slopes = by_path_solved(rates, adjoint)
    first = {"body": {"kernel": 0.5, "bias": 0.5}, "head": {"kernel": 0.1, "bias": 0.0}}
    kept = jax.tree.map(lambda rate: np.full(2, (1 - rate) ** 2), first)
    expected = jax.tree.map(np.multiply, kept, GROUPS)
    for actual, closed_form in ((result, expected), (slopes, kept)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
            actual,
            closed_form,
        )


def test_by_path_sees_the_params_that_adapt_alone():
    only_head = adjoints.only("head/*", adjoints.unroll())
    result, _ = by_path_solved({"*/bias": 0.5, "*": 0.1}, only_head)
    actual = [leaf[0] for leaf in jax.tree.leaves(result)]
    np.testing.assert_allclose(actual, [3, 2, 7 * 0.5**2, 5 * 0.9**2], rtol=1e-6)


def test_by_path_refuses_params_without_a_pattern_and_patterns_without_a_param():
    with pytest.raises(ValueError, match="body/bias, body/kernel: none of head/"):
        by_path_solved({"head/*": 0.1})
    with pytest.raises(
        ValueError, match="no param is left for hat/.*: there are body/"
    ):
        by_path_solved({"hat/*": 0.1, "*": 0.1})
    with pytest.raises(ValueError, match="no param is left for head/"):
        by_path_solved({"*": 0.1, "head/*": 0.1})  # The first one takes them all.
