"""The meta-gradient over tasks, whole and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import estimators

NUM_TASKS = 12


def objective(key, meta, task):
    """A noisy regression: the noise shows whether tasks keep their own keys."""
    noise = jax.random.normal(key, task.shape)
    loss = jnp.mean((meta["scale"] * task + meta["shift"] + 0.1 * noise - 1.0) ** 2)
    return loss, {"loss": loss, "noise": jnp.mean(noise)}


@pytest.fixture
def inputs():
    meta = {"scale": jnp.float32(0.3), "shift": jnp.float32(-0.2)}
    tasks = jax.random.normal(jax.random.key(1), (NUM_TASKS, 5))
    return jax.random.key(0), meta, tasks


def test_equals_the_mean_of_gradients_of_a_plain_loop(inputs):
    key, meta, tasks = inputs
    total = {"scale": 0.0, "shift": 0.0}
    for i, task in enumerate(tasks):
        grads = jax.grad(objective, argnums=1, has_aux=True)(
            jax.random.fold_in(key, i), meta, task
        )[0]
        total = {name: total[name] + grads[name] / NUM_TASKS for name in total}
    (loss, metrics), grads = estimators.backprop(objective)(key, meta, tasks)
    np.testing.assert_allclose(grads["scale"], total["scale"], rtol=1e-5)
    np.testing.assert_allclose(grads["shift"], total["shift"], rtol=1e-5)
    np.testing.assert_allclose(loss, metrics["loss"])


@pytest.mark.parametrize("tasks_per_chunk", [1, 2, 3, 4, 6, 12])
def test_every_chunk_size_gives_the_same(inputs, tasks_per_chunk):
    whole = estimators.backprop(objective)(*inputs)
    chunked = estimators.backprop(objective, tasks_per_chunk=tasks_per_chunk)(*inputs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, chunked
    )


def test_a_chunk_that_does_not_divide_is_refused(inputs):
    with pytest.raises(ValueError, match="tasks_per_chunk=5 does not divide the 12"):
        estimators.backprop(objective, tasks_per_chunk=5)(*inputs)
    with pytest.raises(ValueError, match="at least 1"):
        estimators.backprop(objective, tasks_per_chunk=0)


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("tasks_per_chunk", [None, 1, 3])
def test_every_number_of_devices_gives_the_same(inputs, num_devices, tasks_per_chunk):
    mesh = estimators.task_mesh(num_devices)
    divided = estimators.backprop(objective, tasks_per_chunk=tasks_per_chunk, mesh=mesh)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        estimators.backprop(objective)(*inputs),
        jax.jit(divided)(*inputs),
    )


def test_devices_meet_once_a_step_and_share_the_drawing_of_tasks(inputs):
    key, meta, tasks = inputs
    mesh = estimators.task_mesh(4)
    divided = estimators.backprop(objective, tasks_per_chunk=1, mesh=mesh)

    @jax.jit
    def draw_and_estimate(key, meta):
        draw = jax.vmap(lambda k: jax.random.normal(k, tasks.shape[1:]))
        return divided(key, meta, draw(jax.random.split(key, NUM_TASKS)))

    text = draw_and_estimate.lower(key, meta).compile().as_text()
    assert text.count(" all-reduce(") == 1
    assert "all-gather" not in text
    assert f"f32[{NUM_TASKS},{tasks[0].size}]" not in text


@pytest.mark.parametrize("num_tasks", [1, 6, 10])
def test_devices_share_any_number_of_tasks(inputs, num_tasks):
    key, meta, tasks = inputs
    mesh, few = estimators.task_mesh(4), tasks[:num_tasks]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        estimators.backprop(objective)(key, meta, few),
        estimators.backprop(objective, mesh=mesh)(key, meta, few),
    )


def test_devices_that_are_not_there_and_chunks_that_do_not_divide_are_refused(inputs):
    with pytest.raises(ValueError, match="choose 1 to 4 devices"):
        estimators.task_mesh(5)
    mesh = estimators.task_mesh(4)
    with pytest.raises(ValueError, match="does not divide the 3 tasks of a device"):
        estimators.backprop(objective, tasks_per_chunk=2, mesh=mesh)(*inputs)
