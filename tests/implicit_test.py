"""Implicit differentiation against closed forms, best approximations, and the unroll."""

from functools import partial

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import adjoints, losses
from metajax.adjoints import cg, dense, gmres, implicit, mixed_mode, neumann, unroll

SIZE = 6
EIGENVALUES = np.array([0.5, 0.8, 1.3, 2.0, 3.1, 4.0])

EXACT = {
    "dense": dense(),
    "cg": cg(SIZE, tolerance=0.0),
    "gmres": gmres(SIZE, tolerance=0.0),
    "neumann": neumann(300, rate=0.2),
    "any function": lambda matrix, vector: dense()(matrix, vector),
}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def symmetric(eigenvalues=EIGENVALUES, seed=1):
    """A matrix with those eigenvalues, and its eigenvectors."""
    normal = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    vectors, _ = np.linalg.qr(normal)
    return vectors @ np.diag(eigenvalues) @ vectors.T, vectors


def quadratic(params, args):
    """0.5 w'(A + c I)w - b'w, of all params as one vector w."""
    matrix, vector, curvature = args
    w = ravel_pytree(params)[0]
    return 0.5 * w @ matrix @ w + 0.5 * curvature * w @ w - vector @ w


def tree(w):
    """The vector w as params, in alphabetical order of their names."""
    return {"kernel": w[:4].reshape(2, 2), "offset": w[4:]}


@pytest.fixture
def problem():
    """Params, args (A, b, c) and the cotangent of the params."""
    start, vector, cotangent = random(3, SIZE)
    return (
        tree(start),
        (jnp.asarray(symmetric()[0]), vector, jnp.asarray(0.3)),
        cotangent,
    )


def gradients(adjoint, problem, num_steps=10, optimizer=None):
    """The params after the inner loop, and the gradients to params and args."""
    params, args, cotangent = problem

    def outer(params, args):
        solve = adjoint(quadratic, optimizer or optax.sgd(0.2), num_steps)
        w = ravel_pytree(solve(params, args))[0]
        return cotangent @ w, w

    compute = jax.jit(jax.grad(outer, (0, 1), has_aux=True))
    (to_params, to_args), w = compute(params, args)
    return w, to_params, to_args


def assert_close(actual, expected, rtol=1e-9, atol=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        actual,
        expected,
    )


def closed_form(problem, w, damping=0.0):
    """-M'q with (A + c I + damping I) q = v, at the params w."""
    matrix, _, curvature = map(np.asarray, problem[1])
    cotangent = np.asarray(problem[2])
    hessian = matrix + (curvature + damping) * np.eye(SIZE)
    q = np.linalg.solve(hessian, cotangent)
    # The gradient of the loss is (A + c I) w - b.
    return -np.outer(q, w), q, -q @ w


def assert_args_close(to_args, expected, **tolerance):
    """Of the matrix only the symmetric part counts, as only it does in w'Aw."""
    symmetrized = [(g[0] + g[0].T, *g[1:]) for g in (to_args, expected)]
    assert_close(*symmetrized, **tolerance)


@pytest.mark.parametrize(
    "name, damping", [*((name, 0.0) for name in EXACT), ("cg", 0.7)]
)
def test_gradient_to_args_is_that_of_the_closed_form(problem, name, damping):
    adjoint = implicit(EXACT[name], damping=damping)
    w, _, to_args = gradients(adjoint, problem)
    assert_args_close(to_args, closed_form(problem, w, damping))


def test_gradient_is_that_of_the_minimum_once_the_inner_loop_is_at_rest(problem):
    params, (matrix, vector, curvature), cotangent = problem

    def of_minimum(args):
        matrix, vector, curvature = args
        return cotangent @ jnp.linalg.solve(matrix + curvature * jnp.eye(SIZE), vector)

    _, _, to_args = gradients(implicit(dense()), problem, num_steps=200)
    assert_args_close(to_args, jax.grad(of_minimum)(problem[1]))


def test_gradient_to_the_start_is_zero(problem):
    w, to_params, (_, to_vector, _) = gradients(implicit(dense()), problem, 3)
    assert np.abs(to_vector).max() > 0.1
    assert_close(to_params, tree(jnp.zeros(SIZE)), atol=0)


OPTIMIZERS = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1),  # Which unroll refuses, without eps_root.
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_how_the_inner_loop_came_there_does_not_matter(problem, name):
    w, _, to_args = gradients(implicit(dense()), problem, 20, OPTIMIZERS[name])
    assert_args_close(to_args, closed_form(problem, w))


def test_an_optimizer_built_from_meta_parameters_gets_no_gradient(problem):
    params, args, cotangent = problem

    def outer(rate, vector):
        solve = implicit(dense())(quadratic, optax.sgd(rate), 3)
        w = ravel_pytree(solve(params, (args[0], vector, args[2])))[0]
        return cotangent @ w

    to_rate, to_vector = jax.jit(jax.grad(outer, (0, 1)))(0.1, args[1])
    assert to_rate == 0 and np.abs(to_vector).max() > 0.1


def test_tasks_that_take_no_step_have_gradients_of_their_own(problem):
    """They share the params that they come to rest at, but not what these are for."""
    params, (_, _, curvature), _ = problem
    matrices = jnp.stack([symmetric(seed=seed)[0] for seed in range(3)])
    vectors, cotangents = random(2, 3, SIZE)

    def outer(curvature, matrix, vector, cotangent):
        solve = implicit(dense())(quadratic, optax.sgd(0.2), 0)
        return cotangent @ ravel_pytree(solve(params, (matrix, vector, curvature)))[0]

    def together(curvature):
        many = jax.vmap(outer, (None, 0, 0, 0))
        return jnp.sum(many(curvature, matrices, vectors, cotangents))

    alone = [jax.grad(outer)(curvature, *t) for t in zip(matrices, vectors, cotangents)]
    np.testing.assert_allclose(jax.grad(together)(curvature), sum(alone), rtol=1e-10)


def test_what_the_loss_closes_over_gets_its_gradient(problem):
    """Traced floats; beside a traced key and integers, which have none."""
    params, args, cotangent = problem

    def outer(args, key):
        def loss(params, scale):
            shift = jax.random.normal(key, (SIZE,))
            return scale * (quadratic(params, args) + shift @ ravel_pytree(params)[0])

        w = ravel_pytree(implicit(dense())(loss, optax.sgd(0.1), 10)(params, 2.0))[0]
        return cotangent @ w, w

    compute = jax.jit(jax.grad(outer, has_aux=True))
    actual, w = compute(args, jax.random.key(0))
    assert_args_close(actual, closed_form(problem, w))


def hessian_and_cotangent(problem, curvature=0.3):
    return symmetric()[0] + curvature * np.eye(SIZE), np.asarray(problem[2])


@partial(jax.jit, static_argnums=0)
def solution(solver, hessian, vector):
    def matrix(params):
        return tree(hessian @ ravel_pytree(params)[0])

    return ravel_pytree(solver(matrix, tree(vector)))[0]


def krylov(matrix, vector, iterations):
    """An orthonormal basis of v, Hv, H^2 v, ..."""
    powers = [vector]
    for _ in range(iterations - 1):
        powers.append(matrix @ powers[-1])
    return np.linalg.qr(np.stack(powers, axis=1))[0]


def test_conjugate_gradients_find_the_best_there_is_within_their_bound(problem):
    """Best in the span of v, Hv, ..., by the norm that H gives, and no better."""
    hessian, cotangent = hessian_and_cotangent(problem)
    exact = np.linalg.solve(hessian, cotangent)

    def error(q):
        return np.sqrt((q - exact) @ hessian @ (q - exact))

    root = np.sqrt((4.0 + 0.3) / (0.5 + 0.3))
    errors = [error(0)]
    for iterations in range(1, 5):
        basis = krylov(hessian, cotangent, iterations)
        projected = np.linalg.solve(basis.T @ hessian @ basis, basis.T @ cotangent)
        actual = solution(cg(iterations), hessian, cotangent)
        np.testing.assert_allclose(actual, basis @ projected, rtol=1e-7)
        errors.append(error(actual))
        assert errors[-1] <= 2 * ((root - 1) / (root + 1)) ** iterations * errors[0]
        assert 1e-4 < errors[-1] < 0.9 * errors[-2]


def test_conjugate_gradients_stop_at_the_tolerance(problem):
    hessian, cotangent = hessian_and_cotangent(problem)

    def residual(solver):
        error = hessian @ solution(solver, hessian, cotangent) - cotangent
        return np.linalg.norm(error) / np.linalg.norm(cotangent)

    second, third, fourth = (residual(cg(i, 0.0)) for i in (2, 3, 4))
    assert fourth < third < second
    between = float(np.sqrt(second * third))
    np.testing.assert_allclose(residual(cg(6, between)), third, rtol=1e-9)


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_gmres_leaves_the_least_residual_there_is(problem, iterations):
    """Also where the matrix is indefinite: eigenvalues from -0.5 to 3."""
    solver = gmres(iterations)
    for curvature in (0.3, -1.0):
        hessian, cotangent = hessian_and_cotangent(problem, curvature)
        basis = krylov(hessian, cotangent, iterations)
        best = basis @ np.linalg.lstsq(hessian @ basis, cotangent)[0]
        actual = solution(solver, hessian, cotangent)
        np.testing.assert_allclose(actual, best, rtol=1e-6, atol=1e-9)
        assert np.linalg.norm(hessian @ actual - cotangent) > 1e-3


@pytest.mark.parametrize("iterations", [0, 1, 5, 20])
def test_neumann_errs_by_a_power_of_the_contraction_in_each_eigenvector(
    problem, iterations
):
    hessian, cotangent = hessian_and_cotangent(problem)
    rate, (_, vectors) = 0.3, symmetric()
    exact = vectors.T @ np.linalg.solve(hessian, cotangent)
    actual = vectors.T @ solution(neumann(iterations, rate), hessian, cotangent)
    factors = 1 - rate * (EIGENVALUES + 0.3)
    expected = -(factors ** (iterations + 1))
    np.testing.assert_allclose((actual - exact) / exact, expected, atol=1e-9)


def test_no_neumann_iterations_at_rate_one_are_t1_minus_t2(problem):
    """The Hessian taken for the identity: -M'v."""
    w, _, to_args = gradients(implicit(neumann(0, rate=1)), problem)
    cotangent = problem[2]
    expected = -jnp.outer(cotangent, w), cotangent, -cotangent @ w
    assert_args_close(to_args, expected)


def test_neumann_is_what_the_last_steps_at_rest_back_propagate(problem):
    rest, _, _ = gradients(unroll(0), problem, 300)
    at_rest = (tree(rest), *problem[1:])
    _, _, implied = gradients(implicit(neumann(3, 0.2)), at_rest)
    _, _, unrolled = gradients(unroll(4), at_rest)
    assert_args_close(implied, unrolled, rtol=1e-7)


def network(params, inputs):
    hidden = jnp.tanh(inputs @ params["in"] + params["bias"][None])
    return hidden @ params["out"]


def proximal(params, args):
    """A small network's cross-entropy, with labels and a mask, and |params - meta|^2."""
    meta, batch = args
    distance = optax.tree.norm(optax.tree.sub(params, meta), squared=True)
    outputs = network(params, batch.inputs)
    return losses.cross_entropy(outputs, batch.targets, batch.mask) + 0.25 * distance


def network_problem():
    shapes = {"in": (2, 5), "bias": (5,), "out": (5, 3)}
    meta = {k: random(*shape, seed=i) for i, (k, shape) in enumerate(shapes.items())}
    return meta, mj.Batch(random(6, 2, seed=5), jnp.arange(6) % 3, jnp.arange(6) < 5)


def network_gradients(adjoint, num_steps):
    """To the initialisation and to the support inputs."""
    meta, support = network_problem()
    query = support._replace(inputs=-support.inputs)

    def outer(meta, inputs):
        solve = adjoint(proximal, optax.sgd(0.4), num_steps)
        params = solve(meta, (meta, support._replace(inputs=inputs)))
        outputs = network(params, query.inputs)
        return losses.cross_entropy(outputs, query.targets, query.mask)

    return jax.jit(jax.grad(outer, (0, 1)))(meta, support.inputs)


def test_at_rest_it_equals_the_unroll_on_a_network():
    """Where 200 steps come to rest within 1e-9 of the first gradient."""
    expected = network_gradients(unroll(), 200)
    assert all(np.abs(leaf).max() > 1e-2 for leaf in jax.tree.leaves(expected))
    for solver in (dense(), cg(30, 1e-9)):
        assert_close(network_gradients(implicit(solver), 200), expected, 1e-6, 1e-8)


def test_some_params_come_to_rest_for_the_others():
    """The others reach the loss and the result: both have their part in the gradient."""
    meta, support = network_problem()

    def gradient(adjoint):
        def outer(meta, centre):
            solve = adjoints.only("out", adjoint)(proximal, optax.sgd(0.4), 200)
            outputs = network(solve(meta, (centre, support)), -support.inputs)
            return losses.cross_entropy(outputs, support.targets)

        return jax.jit(jax.grad(outer, (0, 1)))(meta, meta)

    expected = gradient(unroll())
    assert np.abs(expected[0]["in"]).max() > 1e-2
    assert_close(gradient(implicit(dense())), expected, 1e-6, 1e-8)


# Many tasks: the estimators, and the metrics that they report.

NUM_TASKS, STEPS, RATE, TERMS = 6, 4, 0.2, 2


def many_tasks():
    """Matrices, vectors and cotangents: leaves [tasks, ...]."""
    rng = np.random.default_rng(3)
    matrices = [
        symmetric(rng.uniform(0.3, 3, SIZE), seed=i)[0] for i in range(NUM_TASKS)
    ]
    return jnp.asarray(matrices), *random(2, NUM_TASKS, SIZE, seed=4)


META = {"start": 0.1 * np.arange(SIZE), "curvature": np.float64(0.4)}


def objective_of(adjoint):
    def objective(key, meta, task):
        del key
        matrix, vector, cotangent = task
        solve = adjoint(quadratic, optax.sgd(RATE), STEPS)
        w = solve(meta["start"], (matrix, vector, meta["curvature"]))
        loss = cotangent @ w
        return loss, {"loss": loss}

    return objective


def estimated(adjoint, **kwargs):
    estimator = mj.estimators.backprop(objective_of(adjoint), **kwargs)
    meta = jax.tree.map(jnp.asarray, META)
    return jax.jit(estimator)(jax.random.key(0), meta, many_tasks())


def by_hand():
    """Gradient and metrics for Neumann's solver, task by task, in NumPy."""
    slopes, lefts, residuals = [], [], []
    for matrix, vector, cotangent in zip(*map(np.asarray, many_tasks())):
        hessian = matrix + META["curvature"] * np.eye(SIZE)
        w = start = META["start"]
        for _ in range(STEPS):
            w = w - RATE * (hessian @ w - vector)
        contraction = np.eye(SIZE) - RATE * hessian
        terms = [np.linalg.matrix_power(contraction, i) for i in range(TERMS + 1)]
        q = RATE * sum(terms) @ cotangent
        slopes.append(-q @ w)
        norm = np.linalg.norm
        lefts.append(norm(hessian @ w - vector) / norm(hessian @ start - vector))
        residuals.append(norm(hessian @ q - cotangent) / norm(cotangent))
    return tuple(map(np.mean, (slopes, lefts, residuals)))


WAYS_TO_RUN = {
    "at once": lambda: {},
    "in chunks": lambda: {"tasks_per_chunk": 2},
    "on devices that share unevenly": lambda: {"mesh": mj.estimators.task_mesh(4)},
    "on devices in chunks": lambda: {
        "mesh": mj.estimators.task_mesh(2),
        "tasks_per_chunk": 1,
    },
}


@pytest.mark.parametrize(
    "way, precision", [*((way, 32) for way in WAYS_TO_RUN), ("at once", 64)]
)
def test_gradient_and_metrics_are_means_over_tasks(way, precision):
    slope, left, residual = by_hand()
    assert 0.01 < left < 0.99 and 0.01 < residual < 0.99
    with jax.enable_x64(precision == 64):
        (_, metrics), grads = estimated(
            implicit(neumann(TERMS, RATE)), **WAYS_TO_RUN[way]()
        )
    assert set(metrics) == {"loss", "inner_gradient", "solver_residual"}
    np.testing.assert_allclose(metrics["inner_gradient"], left, rtol=1e-5)
    np.testing.assert_allclose(metrics["solver_residual"], residual, rtol=1e-5)
    np.testing.assert_allclose(grads["curvature"], slope, rtol=1e-5)
    np.testing.assert_array_equal(grads["start"], np.zeros(SIZE))


def rest_by_hand(matrix, vector):
    w = META["start"]
    for _ in range(STEPS):
        w = w - RATE * ((matrix + META["curvature"] * np.eye(SIZE)) @ w - vector)
    return w


@pytest.mark.parametrize("name", ["dense", "cg", "gmres"])
def test_solvers_may_run_on_many_tasks_and_on_tasks_that_only_pad(name):
    expected = np.mean(
        [
            -np.linalg.solve(matrix + 0.4 * np.eye(SIZE), cotangent)
            @ rest_by_hand(matrix, vector)
            for matrix, vector, cotangent in zip(*map(np.asarray, many_tasks()))
        ]
    )
    kwargs = WAYS_TO_RUN["on devices that share unevenly"]()
    (_, metrics), grads = estimated(implicit(EXACT[name]), **kwargs)
    np.testing.assert_allclose(grads["curvature"], expected, rtol=1e-6)
    assert metrics["solver_residual"] < 1e-6


def test_the_metrics_are_reported_of_no_other_adjoint():
    for adjoint in (unroll(), unroll(0), mixed_mode()):
        (_, metrics), _ = estimated(adjoint)
        assert set(metrics) == {"loss"}


def test_an_objective_that_is_compiled_by_itself_has_the_gradient_alone():
    """JAX traces it once for all, so that no estimator may leave a probe in it."""
    objective = jax.jit(objective_of(implicit(neumann(TERMS, RATE))))
    meta, tasks = jax.tree.map(jnp.asarray, META), many_tasks()
    for chunk in (None, 2):
        estimator = mj.estimators.backprop(objective, tasks_per_chunk=chunk)
        (_, metrics), grads = jax.jit(estimator)(jax.random.key(0), meta, tasks)
        assert set(metrics) == {"loss"}
        np.testing.assert_allclose(grads["curvature"], by_hand()[0], rtol=1e-6)
    objective(jax.random.key(0), meta, jax.tree.map(lambda x: x[0], tasks))


def test_half_precision_stays_what_it_is():
    tasks = jax.tree.map(lambda x: x.astype(jnp.bfloat16), many_tasks())
    meta = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), META)
    estimator = mj.estimators.backprop(objective_of(implicit(neumann(TERMS, RATE))))
    (_, metrics), grads = jax.jit(estimator)(jax.random.key(0), meta, tasks)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("bfloat16")}
    slope, left, residual = by_hand()
    np.testing.assert_allclose(metrics["inner_gradient"], left, rtol=0.1)
    np.testing.assert_allclose(metrics["solver_residual"], residual, rtol=0.1)
    np.testing.assert_allclose(np.float32(grads["curvature"]), slope, rtol=0.2)


def diverging(max_residual):
    """Neumann at a rate of more than twice what converges: the residual grows."""
    return implicit(neumann(10, rate=1.5), max_residual=max_residual)


def test_a_solver_that_diverges_gives_nan_from_the_residual_named_on(problem):
    _, _, to_args = gradients(diverging(jnp.inf), problem)
    factors = 1 - 1.5 * (EIGENVALUES + 0.3)
    along = symmetric()[1].T @ problem[2]
    residual = np.linalg.norm(factors**11 * along) / np.linalg.norm(along)
    assert residual > 10
    assert np.isfinite(to_args[1]).all()
    _, _, below = gradients(diverging(0.999 * residual), problem)
    assert all(np.isnan(leaf).all() for leaf in below)
    _, _, above = gradients(diverging(1.001 * residual), problem)
    assert_close(above, to_args)


def test_training_does_not_take_a_step_whose_solver_diverges():
    meta, tasks = jax.tree.map(jnp.asarray, META), many_tasks()
    optimizer = optax.sgd(0.1)
    start = mj.TrainState(jnp.int32(3), jax.random.key(0), meta, optimizer.init(meta))

    def after(**kwargs):
        objective = objective_of(implicit(neumann(10, rate=1.5), **kwargs))
        step = mj.train_step(mj.estimators.backprop(objective), optimizer)
        return jax.jit(step)(start, tasks)

    state, metrics = after()
    assert state.skipped == 1 and np.isnan(metrics["grad_norm"])
    assert metrics["solver_residual"] > 10  # Says why.
    assert_close(state.meta, meta, rtol=0, atol=0)
    state, metrics = after(max_residual=jnp.inf)
    assert state.skipped == 0 and np.isfinite(metrics["grad_norm"])


def temporaries(adjoint, num_steps):
    """Of a compiled meta-gradient of a network of three layers, in bytes."""
    weights = jax.ShapeDtypeStruct((3, 20, 20), jnp.float32)
    inputs = jax.ShapeDtypeStruct((100, 20), jnp.float32)

    def loss(weights, args):
        centre, hidden = args
        distance = jnp.sum((weights - centre) ** 2)
        for weight in weights:
            hidden = jnp.tanh(hidden @ weight)
        return jnp.mean(hidden**2) + distance

    def outer(weights, inputs):
        args = weights, inputs
        optimizer = optax.adam(0.1, eps_root=1e-8)
        return loss(adjoint(loss, optimizer, num_steps)(weights, args), args)

    compiled = jax.jit(jax.grad(outer)).lower(weights, inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_inner_steps():
    few, many = (temporaries(implicit(cg(5)), n) for n in (5, 50))
    assert many <= 1.05 * few
    few, many = (temporaries(unroll(), n) for n in (5, 50))
    assert many > 5 * few


def test_bad_arguments_are_refused(problem):
    params, args, _ = problem
    with pytest.raises(ValueError, match="damping must be at least 0: got -0.1"):
        implicit(damping=-0.1)
    solve = implicit()(quadratic, optax.sgd(0.1), 2)
    with pytest.raises(ValueError, match="use unroll or mixed_mode"):
        solve(params, args, jnp.zeros(2))
    with pytest.raises(ValueError, match="use unroll or mixed_mode"):
        solve(params, args, iterates=True)
    for solver in (cg, gmres):
        with pytest.raises(ValueError, match=f"{solver.__name__}: iterations must be"):
            solver(0)
    with pytest.raises(ValueError, match="neumann: iterations must be at least 0"):
        neumann(-1)
    for rate in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="rate must be positive"):
            neumann(rate=rate)
