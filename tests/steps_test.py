"""Outer steps that collect their data, and update several times by it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import estimators, streams

NUM_TASKS, OPTIMIZER = 8, optax.adam(0.1)


def collect(key, meta, task):
    """Data that depend on the parameters, on the task and on its key."""
    return task * meta["scale"] + jax.random.normal(key, task.shape)


def objective(key, meta, data):
    del key
    loss = jnp.mean((meta["scale"] * data - 1) ** 2)
    return loss, {"loss": loss, "data": jnp.mean(data)}


def sampler(key):
    return jax.random.normal(key, (3,))


def start():
    meta = {"scale": jnp.float32(0.5)}
    return mj.training.begin(jax.random.key(0), meta, OPTIMIZER)


def stepping(epochs=1, parts=1, prepare=lambda data: data, **layout):
    own = mj.Collected(estimators.each_task(collect, **layout), epochs, parts, prepare)
    meta_grad = estimators.backprop(objective, **layout)
    return jax.jit(mj.train_step(meta_grad, OPTIMIZER, collected=own))


TASKS = jax.vmap(sampler)(jax.random.split(jax.random.key(1), NUM_TASKS))


@pytest.mark.parametrize("epochs, parts", [(1, 1), (2, 1), (1, 4), (3, 2)])
def test_a_step_is_all_updates_by_what_was_collected_once(epochs, parts):
    """Against a plain loop, which collects with the parameters before the first update."""
    prepare = partial(jax.tree.map, lambda x: x - x.mean())
    state, metrics = stepping(epochs, parts, prepare)(start(), TASKS)
    first = start()
    key = streams.step_keys(first.key, first.step)[1]
    collect_key = jax.random.split(key)[0]
    keys = [jax.random.fold_in(collect_key, i) for i in range(NUM_TASKS)]
    data = jnp.stack([collect(k, first.meta, t) for k, t in zip(keys, TASKS)])
    data, meta, opt_state, losses = prepare(data), first.meta, first.opt_state, []
    mean = jax.jit(
        jax.value_and_grad(
            lambda meta, data: jnp.mean(
                jax.vmap(lambda x: objective(None, meta, x)[0])(data)
            )
        )
    )
    for _ in range(epochs):
        for part in range(parts):
            loss, grads = mean(meta, data[part::parts])
            moves, opt_state = OPTIMIZER.update(grads, opt_state, meta)
            meta = optax.apply_updates(meta, moves)
            losses.append(loss)
    np.testing.assert_allclose(state.meta["scale"], meta["scale"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    assert state.step == 1 and metrics["skipped"] == 0


@pytest.mark.parametrize("devices, tasks_per_chunk", [(None, 2), (2, None), (4, 1)])
def test_chunks_and_devices_change_nothing(devices, tasks_per_chunk):
    mesh = devices and estimators.task_mesh(devices)
    layout = {"tasks_per_chunk": tasks_per_chunk, "mesh": mesh}
    found, _ = stepping(2, 2, **layout)(start(), TASKS)
    whole, _ = stepping(2, 2)(start(), TASKS)
    np.testing.assert_allclose(found.meta["scale"], whole.meta["scale"], rtol=1e-5)


def test_what_is_not_finite_in_one_update_undoes_them_all():
    spoilt = TASKS.at[1].set(jnp.nan)  # In the second of two parts.
    state, metrics = stepping(1, 2)(start(), spoilt)
    assert metrics["skipped"] == 1 and state.skipped == 1
    np.testing.assert_array_equal(state.meta["scale"], start().meta["scale"])
    for now, before in zip(*map(jax.tree.leaves, (state.opt_state, start().opt_state))):
        np.testing.assert_array_equal(now, before)


def test_it_trains_in_one_loop_which_goes_on_to_the_same_bits():
    step = stepping(2, 2)
    train = partial(mj.train, step, sampler=sampler, num_tasks=NUM_TASKS, at_most=6)
    whole, _ = train(start(), num_steps=6)
    halves, _ = train(start(), num_steps=2)
    programs = mj.training._train._cache_size()
    halves, _ = train(halves, num_steps=4)
    assert mj.training._train._cache_size() == programs
    np.testing.assert_array_equal(whole.meta["scale"], halves.meta["scale"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="parts=3 does not divide the 8 tasks"):
        stepping(1, 3)(start(), TASKS)
    with pytest.raises(ValueError, match="epochs and parts must be at least 1"):
        stepping(0, 1)
    with pytest.raises(ValueError, match="3 devices do not divide 8 tasks"):
        stepping(mesh=estimators.task_mesh(3))(start(), TASKS)
    with pytest.raises(ValueError, match="tasks_per_chunk must be at least 1"):
        estimators.each_task(collect, tasks_per_chunk=0)


def test_frozen_tasks_come_in_their_order():
    frozen = streams.Frozen(TASKS)
    found = mj.draw_tasks(jax.random.key(5), frozen, jnp.arange(10))
    np.testing.assert_array_equal(found, jnp.concatenate([TASKS, TASKS[:2]]))
    one = np.asarray(frozen(jax.random.key(0)))
    assert (one == np.asarray(TASKS)).all(axis=1).sum() == 1

    def same(key, meta, task):
        return jnp.mean(task), {"mean": jnp.mean(task)}

    result = mj.evaluate(same, (), frozen, key=jax.random.key(9), num_tasks=NUM_TASKS)
    np.testing.assert_allclose(result.values["mean"], TASKS.mean(axis=1), rtol=1e-6)
