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


def _task(inputs, targets=None):
    targets = np.zeros(4) if targets is None else targets
    return mj.Task(mj.Batch(inputs, targets), mj.Batch(np.zeros((4, 1)), np.zeros(4)))


@pytest.mark.parametrize(
    "task, message",
    [
        (
            _task(np.zeros((4, 1)), np.full(4, 2**31)),
            r"support.targets holds 2147483648",
        ),
        (_task(np.full((4, 1), 1e39)), "support.inputs holds 1e.39, too large"),
        (_task(1.7e9 + np.arange(4)[:, None] / 2), "support.inputs holds different"),
        (_task(np.ma.array(np.zeros(4), mask=[0, 0, 0, 1])), "support.inputs.*masked"),
        (_task(np.array(list("abcd"))), "support.inputs must be numbers: got <U1"),
    ],
)
def test_values_that_the_device_would_change_are_refused(task, message):
    with pytest.raises(ValueError, match=message):
        mj.data.FromHost(lambda random: task)


def test_values_of_either_byte_order_and_of_64_bits_are_kept():
    inputs = np.array(
        [[-np.inf], [np.nan], [3], [-4]], ">f8"
    )  # Padding holds anything.
    task = mj.data.FromHost(lambda random: _task(inputs, np.arange(4, dtype=">i8")))
    support = task(jax.random.key(0)).support
    np.testing.assert_array_equal(support.inputs, inputs)
    np.testing.assert_array_equal(support.targets, np.arange(4))


def test_a_later_task_that_does_not_fit_is_refused():
    def label(random):
        return _task(np.zeros((4, 1)), np.full(4, 2**31 * (random.random() > 0.9)))

    draws = [np.random.default_rng([s]).random() > 0.9 for s in (0, 1)]
    assert not any(draws)
    sampler = mj.data.FromHost(label)
    with pytest.raises(Exception, match="support.targets holds 2147483648"):
        jax.block_until_ready(
            jax.vmap(sampler)(jax.random.split(jax.random.key(0), 99))
        )


def test_no_thread_is_refused():
    with pytest.raises(ValueError, match="num_threads must be at least 1"):
        mj.data.FromHost(make, num_threads=0)
