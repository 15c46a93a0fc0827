"""Tasks made on the host are a stream like any other: fixed by the key, resumable."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.losses import squared_error
from metajax.streams import draw_tasks


def make(random):
    """Regression of one line."""
    slope = random.normal()
    batches = []
    for size in (3, 4):
        inputs = random.normal(size=(size, 1))
        batches.append(mj.Batch(inputs, slope * inputs))
    return mj.Task(*batches)


SAMPLER = mj.data.FromHost(make, num_threads=2)


def test_a_task_depends_on_its_key_alone():
    keys = jax.random.split(jax.random.key(0), 6)
    together = jax.jit(jax.vmap(SAMPLER))(keys)
    for i, key in enumerate(keys):
        alone = SAMPLER(key)
        jax.tree.map(
            lambda many, one: np.testing.assert_array_equal(many[i], one),  # noqa: B023
            together,
            alone,
        )
    slopes = together.query.targets / together.query.inputs
    assert len(np.unique(np.round(slopes[:, 0, 0], 5))) == 6


def test_support_and_query_are_of_one_task():
    support, query = SAMPLER(jax.random.key(3))
    slope = support.targets[0] / support.inputs[0]
    np.testing.assert_allclose(query.targets, slope[None] * query.inputs, rtol=1e-5)
    assert support.inputs.dtype == jnp.float32


def test_training_resumes_with_the_tasks_it_would_have_met():
    model = mj.models.mlp([], 1)
    learner = mj.maml(model, squared_error, optax.sgd(0.1), 1)
    optimizer = optax.adam(1e-2)
    objective = mj.query_loss(learner, squared_error)
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)

    def run(*parts):
        state = mj.init_state(jax.random.key(0), learner, optimizer, SAMPLER)
        losses = []
        for num_steps in parts:
            state, metrics = mj.train(
                step, state, SAMPLER, num_tasks=4, num_steps=num_steps
            )
            losses += metrics["loss"].tolist()
        return state, losses

    (whole, losses), (parted, again) = run(6), run(2, 4)
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        whole.meta,
        parted.meta,
    )
    result = mj.evaluate(
        objective, whole.meta, SAMPLER, key=jax.random.key(1), num_tasks=5
    )
    tasks = draw_tasks(jax.random.split(jax.random.key(1))[0], SAMPLER, np.arange(5))
    assert result.values["loss"].shape == (5,)
    assert np.isfinite(tasks.query.targets).all()


def test_tasks_that_differ_in_shape_are_refused():
    def ragged(random):
        inputs = np.zeros((random.integers(1, 1000), 1))
        return mj.Task(mj.Batch(inputs, inputs), mj.Batch(inputs, inputs))

    with pytest.raises(ValueError, match="same shapes and dtypes"):
        mj.data.FromHost(ragged)


def test_no_thread_is_refused():
    with pytest.raises(ValueError, match="num_threads must be at least 1"):
        mj.data.FromHost(make, num_threads=0)
