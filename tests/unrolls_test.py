"""Windows of long trainings: exact problems, what biases and what does not, and memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import checkpoints, training
from metajax.estimators import backprop, persistent, truncated
from metajax.unrolls import Dynamics, whole

# A linear system with a quadratic loss, whose smoothed gradient is its own.
SIZE, HORIZON, WINDOW = 3, 8, 2
TURN = 0.9 * np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]
TURN = TURN.astype(np.float32)


def linear(noise=0.0):
    def init(key, meta, task):
        return task

    def step(key, meta, task, state, age):
        state = TURN @ state + meta["push"] + noise * jax.random.normal(key, (SIZE,))
        loss = 0.5 * jnp.sum(jnp.square(state - task)) * (1 + age)
        return state, (loss, {"size": jnp.sum(jnp.square(state))})

    return Dynamics(init, step)


META = {"push": np.array([0.3, -0.2, 0.5], np.float32)}


def draw(key):
    return jax.random.normal(key, (SIZE,))


def tasks_of(number):
    return jax.vmap(draw)(jax.random.split(jax.random.key(7), number))


@partial(jax.jit, static_argnums=(0, 3))
def estimates(carrying, key, tasks, steps):
    """Gradients of so many outer steps with the same meta-parameters, and metrics."""

    def one(carried, key):
        (_, metrics), gradient = (
            result := carrying.estimate(key, META, tasks, carried)
        )[0]
        return result[1], (gradient["push"], metrics)

    begin_key, key = jax.random.split(key)
    carried = carrying.begin(begin_key, META, tasks)
    return jax.lax.scan(one, carried, jax.random.split(key, steps))


def exact(tasks):
    return backprop(whole(linear(), HORIZON))(jax.random.key(0), META, tasks)


def lives(carrying, tasks, windows=HORIZON // WINDOW):
    """The mean over whole lives: from when the first, shorter ones are over."""
    slots, (gradients, _) = estimates(carrying, jax.random.key(1), tasks, 3 * windows)
    return np.asarray(gradients)[windows:]


@pytest.mark.parametrize("noise", ["fresh_summed", "reused"])
def test_persistent_noise_is_unbiased(noise):
    one = tasks_of(1)
    tasks = jnp.tile(one, (4000, 1))
    carrying = persistent(
        linear(), window=WINDOW, horizon=HORIZON, std=0.1, noise=noise
    )
    _, true = exact(one)
    many = [
        np.asarray(
            estimates(carrying, jax.random.key(seed), tasks, 8)[1][0][4:].mean(axis=0)
        )
        for seed in range(10, 22)
    ]
    mean, std = np.mean(many, axis=0), np.std(many, axis=0, ddof=1)
    z = (mean - true["push"]) / (std / np.sqrt(len(many)))
    assert np.abs(z).max() < 3


@pytest.mark.parametrize("name", ["fresh", "truncated"])
def test_windows_that_forget_are_biased(name):
    one = tasks_of(1)
    tasks = jnp.tile(one, (4000, 1))
    make = {
        "fresh": partial(persistent, std=0.1, noise="fresh"),
        "truncated": truncated,
    }[name]
    carrying = make(linear(), window=WINDOW, horizon=HORIZON)
    mean = lives(carrying, tasks).mean(axis=0)
    _, true = exact(one)
    # Both lose the same: what a state at the start of a window owes to meta.
    other = truncated(linear(), window=WINDOW, horizon=HORIZON)
    np.testing.assert_allclose(mean, lives(other, one)[-4:].mean(axis=0), rtol=0.1)
    assert np.linalg.norm(mean - true["push"]) > 0.5 * np.linalg.norm(true["push"])


def test_a_window_of_the_whole_life_is_backprop():
    tasks, carrying = tasks_of(3), truncated(linear(), window=8, horizon=8)
    (_, metrics), true = exact(tasks)
    _, (gradients, found) = estimates(carrying, jax.random.key(0), tasks, 2)
    for gradient in gradients:  # New tasks each step, which here are the same.
        np.testing.assert_allclose(gradient, true["push"], rtol=1e-5)
    np.testing.assert_allclose(found["loss"][1], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["size"][1], metrics["size"], rtol=1e-5)


def influence(n=23, positive=10):
    """Influence balancing: early windows push the wrong way (Vicol et al. 2021)."""
    matrix = 0.5 * np.eye(n) + 0.5 * np.eye(n, k=1)
    signs = np.where(np.arange(n) < positive, 1.0, -1.0)
    matrix, signs = matrix.astype(np.float32), signs.astype(np.float32)

    def step(key, meta, task, state, age):
        state = matrix @ state + signs * meta
        return state, (0.5 * jnp.square(state[0] - 1), {})

    return Dynamics(lambda key, meta, task: jnp.ones(n), step)


@pytest.mark.parametrize(
    "make, comes_to",
    [
        (partial(persistent, std=0.1), -1 / 6),
        (partial(persistent, std=0.1, noise="reused"), -1 / 6),
        (partial(persistent, std=0.1, noise="fresh"), None),
        (truncated, None),
    ],
    ids=["pes", "nres", "es", "tbptt"],
)
def test_influence_balancing_comes_to_a_sixth_below_zero(make, comes_to):
    """The optimum is -1/6 by s[0] = -6 theta at rest; what forgets goes the wrong way."""
    long = 1_000_000  # Nothing ends.
    carrying = make(influence(), window=1, horizon=long)
    optimizer = optax.sgd(1e-4)
    step = mj.train_step(carrying, optimizer)
    number, key, meta = 300 if comes_to else 50, jax.random.key(0), jnp.float32(0.5)

    def no_task(key):
        return jnp.zeros(())

    carried = training.begin_carrying(key, carrying, meta, no_task, number)
    state = training.begin(key, meta, optimizer, carried)
    state, metrics = mj.train(step, state, no_task, num_tasks=number, num_steps=3000)
    assert not metrics["begun_anew"].any()
    if comes_to:
        np.testing.assert_allclose(state.meta, comes_to, rtol=0.01)
    else:
        assert state.meta > 0.5


def descent(steps=100):
    """Gradient descent in two dimensions, whose rate goes from one learned one to another.

    Vicol et al. 2021, section 5.2: what is good for a short while is bad in the end.
    """

    def loss(x):
        well = jnp.sqrt(x[0] ** 2 + 5) - 5**0.5
        waves = jnp.sin(x[1]) ** 2 * jnp.exp(-5 * x[0] ** 2)
        return well + waves + 0.25 * jnp.abs(x[1] - 100)

    def step(key, meta, task, x, age):
        share = age / steps
        rate = (1 - share) * jnp.exp(meta[0]) + share * jnp.exp(meta[1])
        x = x - rate * jax.grad(loss)(x)
        return x, (loss(x), {})

    return Dynamics(lambda key, meta, task: jnp.ones(2), step)


@pytest.mark.parametrize(
    "make, share",
    [(partial(persistent, std=0.3, noise="reused"), 1.05), (truncated, None)],
    ids=["nres", "tbptt"],
)
def test_a_schedule_of_rates_comes_to_the_best_there_is(make, share):
    cost = jax.jit(
        jax.vmap(lambda m: whole(descent(), 100)(jax.random.key(0), m, ())[0])
    )
    rates = np.linspace(-4, 4, 33, dtype=np.float32)
    best = np.nanmin(cost(np.stack(np.meshgrid(rates, rates), -1).reshape(-1, 2)))
    carrying, optimizer = make(descent(), window=10, horizon=100), optax.adam(0.03)
    key, meta, number = jax.random.key(1), jnp.zeros(2), 50

    def no_task(key):
        return jnp.zeros(())

    carried = training.begin_carrying(key, carrying, meta, no_task, number)
    state = training.begin(key, meta, optimizer, carried)
    step = mj.train_step(carrying, optimizer)
    state, _ = mj.train(step, state, no_task, num_tasks=number, num_steps=1000)
    found = cost(state.meta[None])[0]
    if share:
        assert found < share * best
    else:
        assert found > 3 * best  # It sees no further than a window.


def test_chunks_and_devices_change_nothing():
    tasks, key = tasks_of(8), jax.random.key(3)
    for make in (truncated, partial(persistent, std=0.1)):
        make = partial(make, linear(0.1), window=WINDOW, horizon=HORIZON)
        slots, (expected, _) = estimates(make(), key, tasks, 6)
        for layout in (
            {"tasks_per_chunk": 2},
            {"mesh": mj.estimators.task_mesh(4)},
            {"mesh": mj.estimators.task_mesh(3), "tasks_per_chunk": 1},
        ):
            other, (found, _) = estimates(make(**layout), key, tasks, 6)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(other.age, slots.age)
            np.testing.assert_allclose(other.state, slots.state, rtol=1e-4, atol=1e-5)


def test_ages_are_staggered_and_new_tasks_take_the_places_of_old_ones():
    carrying = truncated(linear(), window=WINDOW, horizon=HORIZON)
    old, new = tasks_of(6), -tasks_of(6)
    carried = carrying.begin(jax.random.key(0), META, old)
    np.testing.assert_array_equal(carried.end, [2, 4, 6, 8, 2, 4])
    ages = []
    for number in range(6):
        key = jax.random.fold_in(jax.random.key(1), number)
        carried = carrying.estimate(key, META, new, carried)[1]
        ages.append(np.asarray(carried.age))
    np.testing.assert_array_equal(np.array(ages)[:, 0], [2, 2, 4, 6, 8, 2])
    np.testing.assert_array_equal(np.array(ages)[:, 2], [2, 4, 6, 2, 4, 6])
    np.testing.assert_array_equal(carried.task, new)


def test_a_task_that_is_not_finite_begins_anew_and_is_counted():
    def step(key, meta, task, state, age):
        state = jnp.where((task > 0) & (age == 2), jnp.inf, state + meta)
        return state, (jnp.square(state), {})

    fragile = Dynamics(lambda key, meta, task: jnp.float32(0), step)
    tasks = jnp.array([1.0, -1.0, -1.0])
    for make in (truncated, partial(persistent, std=0.1)):
        carrying = make(fragile, window=1, horizon=100)
        meta = jnp.float32(0.5)
        carried = carrying.begin(jax.random.key(0), meta, tasks)
        carried = carried._replace(end=jnp.full(3, 100))
        shares, ages = [], []
        for number in range(6):
            key = jax.random.fold_in(jax.random.key(1), number)
            ((loss, metrics), gradient), carried = carrying.estimate(
                key, meta, tasks, carried
            )
            assert jnp.isfinite(loss) and jnp.isfinite(gradient)
            shares.append(float(metrics["begun_anew"]))
            ages.append(np.asarray(carried.age).tolist())
        np.testing.assert_allclose(shares, [0, 0, 1 / 3, 0, 0, 1 / 3], atol=1e-6)
        assert [age[0] for age in ages] == [1, 2, 100, 1, 2, 100]
        assert ages[-1][1:] == [6, 6]


def test_tasks_that_all_fail_at_once_cost_one_step():
    def step(key, meta, task, state, age):
        state = jnp.where(age == 2, jnp.nan, state + meta)
        return state, (jnp.square(state), {})

    fragile = Dynamics(lambda key, meta, task: jnp.float32(0), step)
    carrying, optimizer = truncated(fragile, window=1, horizon=4), optax.sgd(1e-3)

    def no_task(key):
        return jnp.zeros(())

    key, meta = jax.random.key(0), jnp.float32(0.5)
    carried = training.begin_carrying(key, carrying, meta, no_task, 2)
    carried = carried._replace(end=jnp.full(2, 4))
    state = training.begin(key, meta, optimizer, carried)
    run = mj.train_step(carrying, optimizer, max_skipped=1)
    state, metrics = mj.train(run, state, no_task, num_tasks=2, num_steps=9)
    np.testing.assert_array_equal(metrics["skipped"], [0, 0, 1] * 3)
    assert state.step == 9 and jnp.isfinite(state.meta)


def test_training_goes_on_to_the_same_bits_from_a_checkpoint(tmp_path):
    carrying = persistent(linear(0.1), window=WINDOW, horizon=HORIZON, std=0.1)
    optimizer = optax.adam(1e-2)
    step = mj.train_step(carrying, optimizer)

    def begin():
        key, meta = jax.random.key(0), jax.tree.map(jnp.asarray, META)
        carried = training.begin_carrying(key, carrying, meta, draw, 5)
        return training.begin(key, meta, optimizer, carried)

    at_once, _ = mj.train(step, begin(), draw, num_tasks=5, num_steps=6, at_most=6)
    half, _ = mj.train(step, begin(), draw, num_tasks=5, num_steps=3, at_most=6)
    checkpoints.save(tmp_path, 3, half)
    _, half, _ = checkpoints.restore(tmp_path, begin())
    resumed, _ = mj.train(step, half, draw, num_tasks=5, num_steps=3, at_most=6)
    for a, b in zip(*map(jax.tree.leaves, (resumed, at_once)), strict=True):
        assert jnp.array_equal(a, b)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: truncated(linear(), window=3, horizon=8), "must divide.*3 and 8"),
        (lambda: truncated(linear(), window=8, horizon=4), "must divide.*8 and 4"),
        (lambda: truncated(linear(), window=0, horizon=4), "must divide.*0 and 4"),
        (lambda: whole(linear(), 0), "must divide"),
        (lambda: persistent(linear(), window=1, horizon=2, std=0.0), "positive.*0.0"),
        (
            lambda: persistent(linear(), window=1, horizon=2, std=1.0, noise="x"),
            "one of fresh_summed, reused, fresh: got 1.0 and 'x'",
        ),
        (
            lambda: mj.train_step(
                truncated(linear(), window=1, horizon=2),
                optax.sgd(1.0),
                collected=mj.Collected(lambda key, meta, tasks: tasks),
            ),
            "no use for Collected",
        ),
        (
            lambda: training.begin_carrying(
                jax.random.key(0),
                truncated(linear(), window=1, horizon=2),
                META,
                None,
                1,
            ),
            "A sampler must be",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
