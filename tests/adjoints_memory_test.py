"""The memory ladder: every rung has the derivative of the full unroll, for less memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.adjoints import mixed_mode, unroll
from metajax.models import layers

RUNGS = {
    "step": unroll(remat="step"),
    "nested": unroll(remat="nested"),
    "tree": unroll(remat="tree"),
    "mixed": mixed_mode(remat="none"),
    "mixed_step": mixed_mode(),
    "mixed_nested": mixed_mode(remat="nested"),
}
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1, eps_root=1e-4),
}


def network_loss(params, batch):
    """Cross-entropy of a small network; args are floats, integers and booleans."""
    hidden = jnp.tanh(batch.inputs @ params["in"] + params["bias"][None])
    logits = hidden @ params["out"]
    return mj.losses.cross_entropy(logits, batch.targets, batch.mask)


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    shapes = {"in": (2, 5), "bias": (5,), "out": (5, 3)}
    params = {k: np.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}
    inputs = np.asarray(rng.normal(size=(6, 2)), dtype)
    batch = mj.Batch(inputs, np.arange(6) % 3, np.arange(6) < 5)
    rates = {k: np.asarray(rng.uniform(0.5, 2, s), dtype) for k, s in shapes.items()}
    return params, batch, rates


def learned_rates(optimizer, rates):
    def scale(updates, state, params):
        del params
        return jax.tree.map(jnp.multiply, updates, rates), state

    return optax.chain(optimizer, optax.GradientTransformation(lambda _: (), scale))


def gradients(adjoint, optimizer, num_steps):
    """The outer loss and its gradients to params, support inputs and learned rates."""
    params, support, rates = problem()
    query = support._replace(inputs=support.inputs[::-1])

    def outer(params, inputs, rates):
        solve = adjoint(network_loss, learned_rates(optimizer, rates), num_steps)
        return network_loss(solve(params, support._replace(inputs=inputs)), query)

    return jax.jit(jax.value_and_grad(outer, (0, 1, 2)))(params, support.inputs, rates)


def assert_close(actual, expected, rtol=1e-9, atol=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        actual,
        expected,
    )


# Adam: with a state, momentum in it, and an update that is not linear in the gradient.
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_every_rung_equals_the_full_unroll(name):
    with jax.enable_x64(True):
        expected = gradients(unroll(), OPTIMIZERS[name], 5)
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(expected))
        for rung in RUNGS.values():
            assert_close(gradients(rung, OPTIMIZERS[name], 5), expected)


def wave_gradients(adjoint, num_steps):
    """To the params and args of what compiles in little time and is not linear either."""

    def loss(params, args):
        return jnp.sum(jnp.cos(params * args))

    def outer(params, args):
        solve = adjoint(loss, OPTIMIZERS["momentum"], num_steps)
        return jnp.sum(solve(params, args) ** 2)

    start, args = np.random.default_rng(3).normal(size=(2, 3))
    return jax.jit(jax.grad(outer, (0, 1)))(start, args)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 22])
def test_any_number_of_steps_will_do(num_steps):
    with jax.enable_x64(True):
        expected = wave_gradients(unroll(), num_steps)
        for name in ("nested", "mixed_nested", "tree"):
            assert_close(wave_gradients(RUNGS[name], num_steps), expected)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_mixed_mode_is_truncated_as_the_unroll_is(last):
    with jax.enable_x64(True):
        expected = wave_gradients(unroll(last), 5)
        assert_close(wave_gradients(mixed_mode(last), 5), expected)


def test_tasks_may_come_at_once_or_in_chunks():
    """Two at once, in two chunks, as the unroll has all four at once."""
    params, batch, _ = problem(np.float32)
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(4, *batch.inputs.shape)).astype(np.float32)
    tasks = jax.tree.map(lambda x: np.stack(4 * [x]), batch)._replace(inputs=inputs)

    def estimate(adjoint, chunk):
        def objective(key, params, batch):
            solve = adjoint(network_loss, OPTIMIZERS["sgd"], 5)
            loss = network_loss(solve(params, batch), batch)
            return loss, {"loss": loss}

        estimator = mj.estimators.backprop(objective, tasks_per_chunk=chunk)
        return jax.jit(estimator)(jax.random.key(0), params, tasks)[1]

    expected = estimate(unroll(), None)
    for name in ("nested", "mixed_step"):
        assert_close(estimate(RUNGS[name], 2), expected, 1e-4, 1e-6)


def test_mixed_mode_differentiates_what_the_loss_closes_over():
    """Traced floats with their gradient, and traced keys, which have none."""
    params, batch, _ = problem(np.float32)

    def gradient(adjoint):
        def one_task(params, decay, key):
            def loss(params, batch):
                noise = jax.random.normal(key, batch.inputs.shape)
                noisy = batch._replace(inputs=batch.inputs + noise)
                penalty = decay * optax.tree.norm(params, squared=True)
                return network_loss(params, noisy) + penalty

            solve = adjoint(loss, optax.sgd(0.1), 3)
            return network_loss(solve(params, batch), batch)

        def outer(*arguments):
            keys = jax.random.split(jax.random.key(0), 2)
            return jax.vmap(one_task, (None, None, 0))(*arguments, keys).mean()

        return jax.jit(jax.grad(outer, (0, 1)))(params, jnp.float32(0.3))

    expected = gradient(unroll())
    assert abs(expected[1]) > 1e-2
    assert_close(gradient(mixed_mode()), expected, 1e-4, 1e-6)


def test_mixed_mode_is_differentiated_twice():
    """Where JAX 0.10 takes residuals of a custom rule for one another in a scan."""
    with jax.enable_x64(True):
        params, batch, _ = problem()

        def hessian_product(adjoint):
            def outer(params):
                solve = adjoint(network_loss, optax.sgd(0.5), 2)
                return network_loss(solve(params, batch), batch)

            def slope(params):
                return optax.tree.vdot(jax.grad(outer)(params), params)

            return jax.jit(jax.grad(slope))(params)

        assert_close(hessian_product(mixed_mode()), hessian_product(unroll()))


def test_mixed_mode_on_convolutions_equals_finite_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)

        def flatten(maps):
            return maps.reshape(len(maps), -1)

        parts = [layers.Conv(2), layers.Normalize("transductive"), nn.relu, flatten]
        model = mj.models.from_linen(nn.Sequential([*parts, nn.Dense(3)]))
        loss = mj.losses.cross_entropy
        images = rng.random((2, 3, 4, 4, 1))
        support, query = (mj.Batch(x, np.arange(3)) for x in images)
        learner = mj.maml(model, loss, optax.sgd(0.4), 2, adjoint=mixed_mode())
        objective = mj.query_loss(learner, loss)
        key = jax.random.key(0)
        meta = jax.jit(model.init)(key, images[0])
        meta = jax.tree.map(lambda x: np.asarray(x, np.float64), meta)
        along = jax.tree.map(lambda x: rng.normal(size=x.shape), meta)

        def outer(size):
            moved = jax.tree.map(lambda x, v: x + size * v, meta, along)
            return objective(key, moved, mj.Task(support, query))[0]

        value_and_slope = jax.jit(jax.value_and_grad(outer))
        (up, _), (down, _), (_, slope) = map(value_and_slope, (1e-6, -1e-6, 0.0))
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-5)


def compiled(adjoint, num_steps, *, examples, width, optimizer=OPTIMIZERS["sgd"]):
    """The meta-gradient of a network of three layers, compiled and not run."""
    weights = jax.ShapeDtypeStruct((3, width, width), jnp.float32)
    inputs = jax.ShapeDtypeStruct((examples, width), jnp.float32)

    def loss(weights, inputs):
        hidden = inputs
        for weight in weights:
            hidden = jnp.tanh(hidden @ weight)
        return jnp.mean(hidden**2)

    def outer(weights, inputs):
        return loss(adjoint(loss, optimizer, num_steps)(weights, inputs), inputs)

    return jax.jit(jax.grad(outer)).lower(weights, inputs).compile()


def temporaries(*arguments, **sizes):
    return compiled(*arguments, **sizes).memory_analysis().temp_size_in_bytes


def test_each_rung_takes_less_where_activations_are_large():
    rungs = [unroll(), RUNGS["step"], RUNGS["mixed_step"]]
    full, step, mixed = (temporaries(r, 16, examples=2000, width=8) for r in rungs)
    assert step < full / 4
    assert mixed < step


def test_mixed_mode_takes_less_at_few_steps_though_nothing_is_recomputed():
    """Activations of one inner step at a time, where the unroll keeps those of all."""
    sizes = {"examples": 2000, "width": 8}
    one = temporaries(RUNGS["mixed"], 1, **sizes)
    for num_steps in (2, 4, 8):
        mixed = temporaries(RUNGS["mixed"], num_steps, **sizes)
        assert mixed < 1.3 * one
        assert mixed < temporaries(unroll(), num_steps, **sizes) / (0.6 * num_steps)


def test_nesting_makes_memory_grow_with_the_root_of_steps():
    def growth(adjoint):
        """From 16 to 64 steps, in params."""
        few, many = (temporaries(adjoint, n, examples=2, width=50) for n in (16, 64))
        return (many - few) / (4 * 3 * 50 * 50)

    flat = [growth(RUNGS[name]) for name in ("step", "mixed_step")]
    nested = [growth(RUNGS[name]) for name in ("nested", "mixed_nested")]
    np.testing.assert_allclose(flat, 64 - 16, rtol=0.1)
    np.testing.assert_allclose(nested, 2 * (8 - 4), rtol=0.25)
    # A level more, of four segments.
    np.testing.assert_allclose(growth(RUNGS["tree"]), 4, rtol=0.3)


def test_mixed_mode_keeps_the_gradients_that_the_optimizer_needs():
    """A step recomputed by `remat` does not compute its gradient again."""
    sizes = {"examples": 100, "width": 50, "optimizer": OPTIMIZERS["adam"]}
    kept, redone = (
        compiled(RUNGS[name], 8, **sizes).cost_analysis()["flops"]
        for name in ("mixed", "mixed_step")
    )
    assert redone < 1.05 * kept


def test_unknown_rungs_are_refused_with_those_there_are():
    for adjoint in (unroll, mixed_mode):
        with pytest.raises(ValueError, match="choose one of none, step, nested, tree"):
            adjoint(remat=True)
    with pytest.raises(ValueError, match="mixed_mode: last must be at least 0"):
        mixed_mode(last=-1)
