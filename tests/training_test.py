"""The outer loop: what it promises about streams, resuming, and bad steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import checkpoints, losses

SAMPLER = mj.data.Sinusoid(shots=5, queries=5)
OPTIMIZER = optax.adam(1e-3)


@pytest.fixture(scope="module")
def parts():
    model = mj.models.mlp([8], 1)
    learner = mj.maml(model, losses.squared_error, optax.sgd(0.01), 1)
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.squared_error))
    return learner, mj.train_step(meta_grad, OPTIMIZER)


def start(learner, sampler=SAMPLER):
    return mj.init_state(jax.random.key(0), learner, OPTIMIZER, sampler)


def assert_equal(a, b):
    def plain(x):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(plain(x), plain(y)), a, b)


def test_training_in_parts_equals_training_at_once(parts, tmp_path):
    learner, step = parts
    whole, metrics = mj.train(step, start(learner), SAMPLER, num_tasks=4, num_steps=6)
    half, first = mj.train(step, start(learner), SAMPLER, num_tasks=4, num_steps=3)
    checkpoints.save(tmp_path / "saved", 3, half)
    half = checkpoints.restore(tmp_path / "saved", start(learner)).tree
    parted, second = mj.train(step, half, SAMPLER, num_tasks=4, num_steps=3)
    assert_equal(whole, parted)
    joined = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
    assert_equal(metrics, joined)


def test_each_step_sees_new_tasks_that_the_seed_alone_decides(parts):
    learner, _ = parts
    seen = []

    def looking_step(state, tasks):
        return state._replace(step=state.step + 1), {"inputs": tasks.support.inputs}

    for num_tasks in (2, 4):
        state = start(learner)
        _, metrics = mj.train(
            looking_step, state, SAMPLER, num_tasks=num_tasks, num_steps=3
        )
        seen.append(metrics["inputs"])  # [steps, tasks, points, 1]
    np.testing.assert_array_equal(seen[0], seen[1][:, :2])
    flat = np.asarray(seen[1]).reshape(12, -1)
    assert len(np.unique(flat, axis=0)) == 12


def test_a_learner_of_ones_own_trains_with_the_same_loop():
    """Three functions and no registration: learn a constant's offset from its mean."""
    learner = mj.MetaLearner(
        init=lambda key, inputs: jnp.float32(0.0),
        adapt=lambda key, meta, support: jnp.mean(support.targets),
        predict=lambda meta, adapted, inputs: jnp.full(inputs.shape, adapted + meta),
    )

    def sampler(key):
        level = jax.random.normal(key)
        support = mj.Batch(jnp.zeros((2, 1)), jnp.full((2, 1), level))
        query = mj.Batch(jnp.zeros((2, 1)), jnp.full((2, 1), level + 3.0))
        return mj.Task(support, query)

    optimizer = optax.sgd(0.1)
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.squared_error))
    state = mj.init_state(jax.random.key(0), learner, optimizer, sampler)
    step = mj.train_step(meta_grad, optimizer)
    state, _ = mj.train(step, state, sampler, num_tasks=4, num_steps=100)
    np.testing.assert_allclose(state.meta, 3.0, rtol=1e-4)


def test_a_step_that_is_not_finite_leaves_the_last_good_state():
    learner = mj.MetaLearner(
        init=lambda key, inputs: jnp.float32(1.0),
        adapt=lambda key, meta, support: meta,
        predict=lambda meta, adapted, inputs: jnp.log(adapted) + 0 * inputs,
    )
    # Each step of 0.4 moves 1.0 towards log(meta) = -inf, and the third is past zero.
    optimizer = optax.sgd(0.4)

    def estimate(key, meta, tasks):
        return (jnp.log(meta), {"loss": jnp.log(meta)}), jnp.float32(1.0)

    step = mj.train_step(estimate, optimizer, max_skipped=0)
    state = mj.init_state(jax.random.key(0), learner, optimizer, SAMPLER)
    state, metrics = mj.train(step, state, SAMPLER, num_tasks=2, num_steps=6)
    assert int(state.step) == 3
    np.testing.assert_array_equal(metrics["skipped"], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(state.meta, -0.2, rtol=1e-5)
    loss = np.asarray(metrics["loss"])
    assert np.isfinite(loss[:3]).all() and np.isnan(loss[3:]).all()


def test_a_state_owns_its_buffers(parts):
    """Meta-parameters that share an array, or are still held, survive donation."""
    _, step = parts
    model = mj.models.mlp([8], 1)
    given = jax.jit(model.init)(jax.random.key(1), np.ones((1, 1), np.float32))
    learner = mj.maml(
        model._replace(init=lambda key, inputs: given),
        losses.squared_error,
        optax.sgd(0.01),
        1,
    )
    state = start(learner)
    mj.train(step, state, SAMPLER, num_tasks=4, num_steps=3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(given))
    optimizer = optax.contrib.prodigy()  # Its state starts as the parameters.
    step = mj.train_step(
        mj.estimators.backprop(mj.query_loss(learner, losses.squared_error)), optimizer
    )
    state = mj.init_state(jax.random.key(0), learner, optimizer, SAMPLER)
    state, _ = mj.train(step, state, SAMPLER, num_tasks=2, num_steps=1)
    assert int(state.step) == 1


def test_an_update_that_is_not_finite_is_not_applied(parts):
    learner, _ = parts
    optimizer = optax.sgd(1e38)
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.squared_error))

    def large(key, meta, tasks):
        value, grads = meta_grad(key, meta, tasks)
        return value, jax.tree.map(lambda g: 1e3 * jnp.ones_like(g), grads)

    state = mj.init_state(jax.random.key(0), learner, optimizer, SAMPLER)
    before = jax.device_get(state.meta)
    step = mj.train_step(large, optimizer, max_skipped=3)
    state, _ = mj.train(step, state, SAMPLER, num_tasks=2, num_steps=6)
    assert int(state.step) == int(state.skipped) == 3
    assert_equal(state.meta, before)


@pytest.mark.parametrize("bad_step", [0, 2, 5])
def test_a_step_that_is_skipped_changes_nothing_but_the_count(parts, bad_step):
    """The step after it is what it would be had there been no such step."""
    learner, good = parts
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.squared_error))

    def meta_grad_at(step):
        def estimate(key, meta, tasks):
            (loss, metrics), grads = meta_grad(key, meta, tasks)
            return (jnp.where(step == bad_step, jnp.nan, loss), metrics), grads

        return estimate

    step = mj.scheduled_step(meta_grad_at, OPTIMIZER, max_skipped=1)
    state, metrics = mj.train(step, start(learner), SAMPLER, num_tasks=4, num_steps=7)
    assert (int(state.step), int(state.skipped)) == (7, 0)
    np.testing.assert_array_equal(metrics["skipped"], np.arange(7) == bad_step)
    go_on = partial(mj.train, good, sampler=SAMPLER, num_tasks=4, at_most=6)
    expected, _ = go_on(state=start(learner), num_steps=bad_step)
    expected = expected._replace(step=jnp.int32(bad_step + 1))
    expected, _ = go_on(state=expected, num_steps=6 - bad_step)
    assert_equal(state.meta, expected.meta)


def test_more_steps_can_be_skipped_in_all_than_in_a_row(parts):
    learner, _ = parts
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.squared_error))

    def meta_grad_at(step):
        def estimate(key, meta, tasks):
            (loss, metrics), grads = meta_grad(key, meta, tasks)
            scale = jnp.where(step % 3 == 0, 1.0, jnp.inf)
            return (loss, metrics), jax.tree.map(lambda g: scale * g, grads)

        return estimate

    for max_skipped, last in ((2, 9), (1, 2)):
        step = mj.scheduled_step(meta_grad_at, OPTIMIZER, max_skipped=max_skipped)
        state, _ = mj.train(step, start(learner), SAMPLER, num_tasks=4, num_steps=9)
        assert int(state.step) == last
    with pytest.raises(ValueError, match="at least 0: got -1"):
        mj.train_step(meta_grad, OPTIMIZER, max_skipped=-1)


def test_one_program_serves_any_number_of_steps_bit_for_bit(parts):
    learner, step = parts
    programs = mj.training._train._cache_size()
    whole, metrics = mj.train(step, start(learner), SAMPLER, num_tasks=4, num_steps=7)
    for numbers in ([1, 2, 4], [5, 1, 1]):
        state, logs = start(learner), []
        for num_steps in numbers:
            state, log = mj.train(
                step, state, SAMPLER, num_tasks=4, num_steps=num_steps, at_most=7
            )
            logs.append(log["loss"])
        assert_equal(state.meta, whole.meta)
        assert_equal(state.opt_state, whole.opt_state)
        np.testing.assert_array_equal(np.concatenate(logs), metrics["loss"])
    assert mj.training._train._cache_size() == programs + 1
    with pytest.raises(ValueError, match="num_steps=8 is more than at_most=7"):
        mj.train(step, state, SAMPLER, num_tasks=4, num_steps=8, at_most=7)


def stacked(learner, seeds):
    states = [
        mj.init_state(jax.random.key(seed), learner, OPTIMIZER, SAMPLER)
        for seed in seeds
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@pytest.mark.parametrize(
    "at_a_time, num_devices", [(None, 1), (1, 1), (2, 1), (None, 2), (1, 4)]
)
def test_each_of_several_seeds_is_trained_as_if_alone(parts, at_a_time, num_devices):
    learner, step = parts
    together = stacked(learner, range(4))
    mesh = None
    if num_devices > 1:
        mesh = mj.estimators.task_mesh(num_devices)
        divided = jax.NamedSharding(mesh, jax.P("tasks"))
        together = jax.device_put(together, divided)
    seeds = mj.training.Seeds(at_a_time, mesh)
    arguments = {"num_tasks": 4, "at_most": 5, "seeds": seeds}
    traced = mj.training.trace(step, together, SAMPLER, **arguments)
    assert "all-" not in traced.lower().compile().as_text()
    programs = mj.training._train._cache_size()
    logs = []
    for num_steps in (3, 2):
        together, log = mj.train(
            step, together, SAMPLER, num_steps=num_steps, **arguments
        )
        logs.append(log["loss"])
    assert mj.training._train._cache_size() == programs + 1
    losses = np.concatenate(logs, axis=1)
    assert losses.shape == (4, 5)
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    for seed in range(4):
        state = mj.init_state(jax.random.key(seed), learner, OPTIMIZER, SAMPLER)
        alone, metrics = mj.train(step, state, SAMPLER, num_tasks=4, num_steps=5)
        np.testing.assert_allclose(losses[seed], metrics["loss"], **tolerance)
        for many, one in zip(
            jax.tree.leaves(together.meta), jax.tree.leaves(alone.meta)
        ):
            np.testing.assert_allclose(many[seed], one, **tolerance)


@pytest.mark.parametrize("at_a_time", [None, 1])
def test_a_seed_that_is_not_finite_leaves_the_others_alone(parts, at_a_time):
    learner, good = parts
    objective = mj.query_loss(learner, losses.squared_error)
    meta_grad = mj.estimators.backprop(objective)
    together = stacked(learner, range(2))
    bad = together.meta["Dense_0"]["bias"].at[1, 0].set(jnp.nan)
    together.meta["Dense_0"]["bias"] = bad
    step = mj.train_step(meta_grad, OPTIMIZER, max_skipped=1)
    together, _ = mj.train(
        step,
        together,
        SAMPLER,
        num_tasks=4,
        num_steps=5,
        seeds=mj.training.Seeds(at_a_time),
    )
    np.testing.assert_array_equal(together.step, [5, 1])
    alone, _ = mj.train(good, start(learner), SAMPLER, num_tasks=4, num_steps=5)
    for many, one in zip(jax.tree.leaves(together.meta), jax.tree.leaves(alone.meta)):
        np.testing.assert_allclose(many[0], one, rtol=1e-4, atol=1e-6)


def test_the_tasks_of_a_step_can_be_drawn_again(parts):
    learner, _ = parts
    seen = []

    def estimate(key, meta, tasks):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), tasks.support.inputs)
        zeros = jax.tree.map(jnp.zeros_like, meta)
        return (jnp.float32(0), {"loss": jnp.float32(0)}), zeros

    state, key = start(learner), start(learner).key
    mj.train(
        mj.train_step(estimate, OPTIMIZER), state, SAMPLER, num_tasks=4, num_steps=3
    )
    jax.effects_barrier()
    for step in range(3):
        tasks = jax.jit(
            lambda key, step: mj.training.step_tasks(key, step, SAMPLER, 4)
        )(key, step)
        np.testing.assert_array_equal(tasks.support.inputs, seen[step])


def test_devices_share_training_and_the_drawing_of_tasks_in_one_program(
    parts, tmp_path
):
    learner, one_device = parts
    objective = mj.query_loss(learner, losses.squared_error)
    mesh = mj.estimators.task_mesh(4)
    inner = mj.train_step(mj.estimators.backprop(objective, mesh=mesh), OPTIMIZER)
    traces = []

    def step(state, tasks):
        traces.append(state)
        return inner(state, tasks)

    state = jax.device_put(start(learner), jax.NamedSharding(mesh, jax.P()))
    checkpoints.save(tmp_path / "saved", 0, state)
    expected, _ = mj.train(
        one_device, start(learner), SAMPLER, num_tasks=4, num_steps=6
    )
    compiled = mj.training.trace(step, state, SAMPLER, num_tasks=4, at_most=3)
    assert len(traces) == 1
    text = compiled.lower().compile().as_text()
    assert text.count(" all-reduce(") == 1 and "all-gather" not in text
    programs = mj.training._train._cache_size()
    state = checkpoints.restore(tmp_path / "saved", like=state).tree
    for _ in range(2):
        state, _ = mj.train(step, state, SAMPLER, num_tasks=4, num_steps=3)
    assert mj.training._train._cache_size() == programs + 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        state.meta,
        expected.meta,
    )


def test_a_divided_state_is_trained_to_the_same_and_stays_divided(parts):
    """With parameters put together for a step, and no device holding all of them."""
    learner, one_device = parts
    mesh = mj.estimators.task_mesh(4)
    objective = mj.query_loss(learner, losses.squared_error)
    step = mj.train_step(mj.estimators.backprop(objective, mesh=mesh), OPTIMIZER)
    step = mj.training.keep_divided(step, mesh)
    state = start(learner)
    shardings = mj.training.divided(state, mesh)
    state = jax.device_put(state, shardings)
    programs = mj.training._train._cache_size()
    for _ in range(2):
        state, _ = mj.train(step, state, SAMPLER, num_tasks=4, num_steps=3)
    assert mj.training._train._cache_size() == programs + 1
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings)):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    # Of 8 hidden units each device has 2; the bias of the only output is on all.
    held = [leaf.addressable_data(0).size for leaf in jax.tree.leaves(state.meta)]
    assert held == [2, 2, 1, 2]
    expected, _ = mj.train(
        one_device, start(learner), SAMPLER, num_tasks=4, num_steps=6
    )
    for a, b in zip(jax.tree.leaves(state.meta), jax.tree.leaves(expected.meta)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_arrays_of_the_sampler_are_arguments_of_the_program(parts):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1)).astype(np.uint8)
    sampler = mj.data.FewShot(mj.data.from_arrays(images, np.arange(60) % 6), 5, 1, 1)
    model = mj.models.mlp([4], 5)
    learner = mj.maml(model, losses.cross_entropy, optax.sgd(0.1), 1)
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.cross_entropy))
    step = mj.train_step(meta_grad, OPTIMIZER)
    traced = mj.training.trace(
        step, start(learner, sampler), sampler, num_tasks=2, at_most=2
    )
    lowered = traced.lower()
    shapes = [leaf.shape for leaf in jax.tree.leaves(lowered.args_info)]
    assert (60, 8, 8, 1) in shapes
    assert len(lowered.as_text()) < 500_000


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_whole_loop_lowers_for_every_platform(parts, platform):
    learner, step = parts
    keyless = jax.tree.map(lambda x: x, start(learner))

    def loop(meta, opt_state):
        state = keyless._replace(
            meta=meta, opt_state=opt_state, key=jax.random.key(0), step=jnp.int32(0)
        )
        state, metrics = mj.train(step, state, SAMPLER, num_tasks=4, num_steps=2)
        return state.meta, metrics

    exported = jax.export.export(jax.jit(loop), platforms=[platform])(
        keyless.meta, keyless.opt_state
    )
    assert exported.platforms == (platform,)


def test_a_scheduled_step_meets_each_outer_step_in_one_trace(parts):
    learner, _ = parts
    objective = mj.query_loss(learner, losses.squared_error)
    traces = []

    def meta_grad_at(step):
        traces.append(step)

        def scheduled(key, meta, task):
            loss, metrics = objective(key, meta, task)
            return step * loss, metrics | {"step": step}

        return mj.estimators.backprop(scheduled)

    step = mj.scheduled_step(meta_grad_at, OPTIMIZER)
    state, seen, traced = start(learner), [], []
    for _ in range(3):
        traces.clear()
        state, metrics = mj.train(step, state, SAMPLER, num_tasks=2, num_steps=4)
        seen.extend(metrics["step"])
        traced.append(len(traces))
    np.testing.assert_allclose(seen, np.arange(12))
    assert traced[0] > 0 and traced[1:] == [0, 0]


def test_a_scheduled_step_is_the_step_of_the_estimator_at_that_time(parts):
    learner, first = parts
    objective = mj.query_loss(learner, losses.squared_error)

    def zero(*arguments):
        estimate = mj.estimators.backprop(objective)(*arguments)
        return jax.tree.map(jnp.zeros_like, estimate)

    step = mj.scheduled_step(
        lambda step: mj.estimators.before(
            step, 3, mj.estimators.backprop(objective), zero
        ),
        OPTIMIZER,
    )
    state, metrics = mj.train(step, start(learner), SAMPLER, num_tasks=4, num_steps=5)
    _, expected = mj.train(first, start(learner), SAMPLER, num_tasks=4, num_steps=3)
    metrics = jax.device_get(metrics)
    np.testing.assert_allclose(metrics["loss"][:3], expected["loss"], rtol=1e-5)
    assert (metrics["grad_norm"][:3] > 0).all()
    np.testing.assert_array_equal(metrics["grad_norm"][3:], [0, 0])
    assert int(state.step) == 5
