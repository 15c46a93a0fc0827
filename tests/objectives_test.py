"""What one task costs: one query loss, or one after each inner step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import losses

STEPS = 5


def stepwise_mean():
    """Adapts to partial sums of the support targets: adapted is [steps]."""

    def predict(meta, adapted, inputs):
        inputs = inputs.inputs if isinstance(inputs, mj.Masked) else inputs
        return jax.vmap(lambda level: jnp.full(inputs.shape, level))(adapted)

    return mj.MetaLearner(
        init=lambda key, inputs: jnp.float32(0.0),
        adapt=lambda key, meta, support: meta + jnp.cumsum(support.targets[:, 0]),
        predict=predict,
    )


def absolute_error(outputs, targets, mask=None):
    return losses.masked_mean(jnp.abs(outputs - targets)[:, 0], mask)


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    support, inputs, targets = rng.normal(size=(3, STEPS, 1)).astype(np.float32)
    mask = np.array([True, True, False, True, True])
    return mj.Task(mj.Batch(inputs, support), mj.Batch(inputs, targets, mask))


def test_multi_step_loss_is_the_weighted_sum_written_out(task):
    weights = np.array([0.1, 0.0, 0.4, 0.2, 0.3], np.float32)
    objective = mj.multi_step_loss(
        stepwise_mean(), losses.squared_error, weights, distance=absolute_error
    )
    loss, metrics = objective(jax.random.key(0), jnp.float32(0.5), task)
    real = task.query.targets[task.query.mask]
    levels = 0.5 + np.cumsum(task.support.targets)
    each = [np.mean((level - real) ** 2) for level in levels]
    np.testing.assert_allclose(
        loss, sum(w * e for w, e in zip(weights, each)), rtol=1e-5
    )
    assert set(metrics) == {"loss", "distance"}
    np.testing.assert_allclose(metrics["loss"], each[-1], rtol=1e-5)
    distance = np.mean(np.abs(levels[-1] - real))
    np.testing.assert_allclose(metrics["distance"], distance, rtol=1e-5)


def test_gradient_of_the_multi_step_loss_is_the_weighted_sum_of_slopes(task):
    weights = np.array([0.1, 0.0, 0.4, 0.2, 0.3], np.float32)
    objective = mj.multi_step_loss(stepwise_mean(), losses.squared_error, weights)
    slope = jax.grad(objective, 1, has_aux=True)(jax.random.key(0), 0.5, task)[0]
    real = task.query.targets[task.query.mask]
    levels = 0.5 + np.cumsum(task.support.targets)
    expected = sum(w * 2 * np.mean(lv - real) for w, lv in zip(weights, levels))
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_weight_on_the_last_step_alone_is_the_query_loss_of_the_last_step(task):
    last = stepwise_mean()
    last = last._replace(predict=lambda *args: stepwise_mean().predict(*args)[-1])
    arguments = jax.random.key(0), jnp.float32(0.5), task
    expected = mj.query_loss(last, losses.squared_error)(*arguments)
    weights = jnp.zeros(STEPS).at[-1].set(1)
    actual = mj.multi_step_loss(stepwise_mean(), losses.squared_error, weights)(
        *arguments
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected
    )


@pytest.mark.parametrize("step", [0, 1, 37, 50, 97, 98, 99, 100, 5000])
@pytest.mark.parametrize("num_inner", [1, 2, 5])
def test_step_weights_fall_linearly_to_a_floor_and_then_to_the_last_step(
    step, num_inner
):
    weights = jax.jit(mj.step_weights, static_argnums=(1, 2))(step, num_inner, 100)
    # In units of 1 / num_inner; the floor is met at 97% of the way.
    share = {0: 1, 1: 0.99, 37: 0.63, 50: 0.5, 97: 0.03, 98: 0.03, 99: 0.03}.get(
        step, 0
    )
    early = share / num_inner
    expected = [early] * (num_inner - 1) + [1 - early * (num_inner - 1)]
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


def test_all_steps_count_the_same_at_first_and_the_last_alone_at_the_end():
    np.testing.assert_allclose(mj.step_weights(0, 4, 10), np.full(4, 0.25), rtol=1e-6)
    np.testing.assert_array_equal(mj.step_weights(10, 4, 10), [0, 0, 0, 1])
