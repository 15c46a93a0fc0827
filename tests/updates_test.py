"""Optimizers that take the loss, change with their number of updates, or cannot be used."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import adjoints, losses

SAMPLER = mj.data.Sinusoid(shots=4, queries=3)
MODEL = mj.models.mlp([3], 1)
SGD = optax.sgd(0.001, momentum=0.9)
START = jnp.array([1.0, -2.0])
EVALUATING = {
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(
        optax.sgd(0.1), optax.scale_by_backtracking_linesearch(max_backtracking_steps=2)
    ),
}


def loss(params, target):
    return jnp.sum((params - target) ** 2 * jnp.array([1.0, 3.0])) + 1.0


def polyak_written_out(params, target, num_steps):
    for _ in range(num_steps):
        value, slope = jax.value_and_grad(loss)(params, target)
        rate = jnp.minimum(value / (jnp.sum(slope**2) + 1e-3), 0.2)
        params = params - rate * slope
    return params


ADJOINTS = {"unroll": adjoints.unroll(), "mixed_mode": adjoints.mixed_mode()}


@pytest.mark.parametrize("name", ADJOINTS)
def test_polyaks_steps_meet_the_inner_loss_and_so_does_their_derivative(name):
    solve = ADJOINTS[name](loss, optax.polyak_sgd(0.2, eps=1e-3), 3)
    target = jnp.array([0.5, 1.5])
    value, slopes = jax.jit(jax.value_and_grad(lambda *a: solve(*a).sum(), (0, 1)))(
        START, target
    )

    def written_out(*arguments):
        return polyak_written_out(*arguments, 3).sum()

    expected, expected_slopes = jax.jit(jax.value_and_grad(written_out, (0, 1)))(
        START, target
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(slopes, expected_slopes, rtol=1e-4)


def test_the_first_order_derivative_takes_the_loss_for_a_constant():
    solve = adjoints.unroll(last=0)(loss, optax.polyak_sgd(0.2, eps=1e-3), 2)
    slope = jax.jit(jax.jacobian(solve))(START, jnp.array([0.5, 1.5]))
    np.testing.assert_allclose(slope, np.eye(2), atol=1e-6)


def test_reptile_gives_the_loss_to_its_optimizer():
    rate = optax.polyak_sgd(0.2, eps=1e-3)
    reptile = mj.reptile(MODEL, losses.squared_error, rate, 2)
    fomaml = mj.fomaml(MODEL, losses.squared_error, rate, 2)
    task = SAMPLER(jax.random.key(0))
    meta = MODEL.init(jax.random.key(1), task.support.inputs)
    adapted = [
        jax.jit(learner.adapt)(jax.random.key(2), meta, task.support)
        for learner in (reptile, fomaml)
    ]
    chex.assert_trees_all_close(*adapted, rtol=1e-5)


def train(optimizer, learner=None, num_steps=4):
    learner = learner or mj.fomaml(MODEL, losses.squared_error, optax.sgd(0.01), 1)
    objective = mj.query_loss(learner, losses.squared_error)
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    state = mj.init_state(jax.random.key(0), learner, optimizer, SAMPLER)
    return mj.train(step, state, SAMPLER, num_tasks=2, num_steps=num_steps)


def test_an_outer_optimizer_meets_the_loss_of_its_step():
    """That halves its rate at each loss, since none is less than minus infinity."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, atol=jnp.inf)
    state, metrics = train(optax.chain(optax.sgd(0.01), plateau))
    assert np.isfinite(metrics["loss"]).all()
    np.testing.assert_allclose(state.opt_state[1].scale, 0.5**4)
    polyak, metrics = train(optax.polyak_sgd(0.01), num_steps=1)
    rate = min(metrics["loss"][0] / metrics["grad_norm"][0] ** 2, 0.01)
    expected, _ = train(optax.sgd(rate), num_steps=1)
    chex.assert_trees_all_close(polyak.meta, expected.meta, rtol=1e-5)


@pytest.mark.parametrize("name", EVALUATING)
@pytest.mark.parametrize("where", ["unroll", "first order", "reptile", "outer"])
def test_optimizers_that_evaluate_the_loss_are_refused_by_name(name, where):
    make = {
        "unroll": mj.maml,
        "first order": mj.fomaml,
        "reptile": mj.reptile,
        "outer": lambda model, loss, optimizer, steps: None,
    }[where]
    learner = make(MODEL, losses.squared_error, EVALUATING[name], 1)
    outer = EVALUATING[name] if where == "outer" else optax.sgd(0.1)
    with pytest.raises(
        ValueError, match="value_fn.*as optax.lbfgs and line searches do"
    ):
        train(outer, learner)


def test_lbfgs_of_a_fixed_rate_needs_no_evaluations():
    optimizer = optax.lbfgs(0.1, linesearch=None)
    solve = adjoints.unroll(last=0)(loss, optimizer, 5)
    target = jnp.array([0.5, 1.5])
    params, state = START, optimizer.init(START)
    for _ in range(5):
        moves, state = optimizer.update(jax.grad(loss)(params, target), state, params)
        params = optax.apply_updates(params, moves)
    np.testing.assert_allclose(jax.jit(solve)(START, target), params, rtol=1e-4)
    train(optimizer)


@pytest.mark.parametrize(
    "num_steps, last, smooth",
    [
        (2, None, True),
        (3, None, False),
        (3, 1, False),
        (6, 2, True),
        (6, 4, False),
        (6, 0, True),
    ],
)
def test_as_many_updates_are_checked_as_there_are(num_steps, last, smooth):
    """Of RAdam, the derivative of the third update by the gradient is NaN."""
    radam = optax.radam(0.1, eps_root=1e-8)
    solve = adjoints.unroll(last)(loss, radam, num_steps)
    slope = jax.jit(jax.grad(lambda *a: solve(*a).sum(), 1))
    if smooth:
        assert np.isfinite(slope(START, jnp.zeros(2))).all()
    else:
        with pytest.raises(ValueError, match="no finite derivative at a zero gradient"):
            slope(START, jnp.zeros(2))


def test_many_updates_are_checked_by_a_loop():
    """Whose trace does not grow with their number."""
    traces = []

    def update(grads, state, params=None):
        traces.append(state)
        return SGD.update(grads, state, params)

    counted = optax.GradientTransformation(SGD.init, update)
    numbers = []
    for num_steps in (20, 400):
        traces.clear()
        solve = adjoints.unroll()(loss, counted, num_steps)
        jax.eval_shape(jax.grad(lambda *a: solve(*a).sum()), START, START)  # noqa: B023
        numbers.append(len(traces))
    assert numbers[0] == numbers[1]
