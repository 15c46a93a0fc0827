"""Learning in context is learning: it reaches what theory allows, along a sequence too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import losses

DIM, SHOTS = 5, 10
IDENTITY = mj.models.mlp([], None)
CAUSAL = mj.models.in_context_transformer(1, width=4, layers=1, heads=1, length=8)


@pytest.fixture(scope="module")
def trained():
    """Linear attention after 500 outer steps on linear regression."""
    data = mj.data.LinearRegression(DIM, SHOTS, queries=8)
    learner = mj.in_context(IDENTITY, mj.models.linear_attention(1, width=DIM + 1))
    objective = mj.query_loss(learner, losses.squared_error)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 500))
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    state = mj.init_state(jax.random.key(0), learner, optimizer, data)
    state, _ = mj.train(step, state, data, num_tasks=64, num_steps=500)
    return data, learner, state.meta


def test_linear_attention_reaches_the_best_step_of_gradient_descent(trained):
    """The best of all c for predictions c * x . sum_i x_i y_i is 1 / (n + d + 1)."""
    data, learner, meta = trained
    best = 1 / (SHOTS + DIM + 1)

    def objective(key, meta, task):
        support, query = task
        step = best * support.inputs.T @ support.targets
        read = learner.adapt(key, meta, support)
        outputs = {
            "learned": learner.predict(meta, read, query.inputs),
            "theory": query.inputs @ step,
        }
        costs = {n: losses.squared_error(o, query.targets) for n, o in outputs.items()}
        return costs["learned"], costs

    values = mj.evaluate(
        objective,
        meta,
        data,
        key=jax.random.key(1),
        num_tasks=40_000,
        tasks_per_chunk=20_000,
    ).values
    costs = {name: value.mean() / DIM for name, value in values.items()}
    assert abs(costs["learned"] / costs["theory"] - 1) < 0.01
    expected = (DIM + 1) * best
    noise = 4 * values["learned"].std() / DIM / np.sqrt(40_000)
    assert expected == 0.375
    assert abs(costs["learned"] - expected) < 0.01 * expected + noise


def test_what_it_has_learned_is_that_step_for_each_task(trained):
    data, learner, meta = trained
    support, query = jax.jit(data)(jax.random.key(2))
    read = learner.adapt(jax.random.key(0), meta, support)
    actual = learner.predict(meta, read, np.eye(DIM, dtype=np.float32))
    expected = support.inputs.T @ support.targets / (SHOTS + DIM + 1)
    np.testing.assert_allclose(actual, expected, atol=0.1 * np.abs(expected).max())


@pytest.fixture(scope="module")
def sequence():
    """A causal reader, and a task of which one support example is padding."""
    support, query = jax.jit(mj.data.LinearRegression(2, 5, 3))(jax.random.key(0))
    mask = np.array([1, 1, 0, 1, 1], bool)
    init = jax.jit(mj.in_context(IDENTITY, CAUSAL).init)
    meta = init(jax.random.key(1), support.inputs)
    return meta, mj.Task(support._replace(mask=mask), query)


def test_the_loss_along_a_sequence_is_that_after_each_number_of_shots(sequence):
    meta, task = sequence
    learner = mj.in_context(IDENTITY, CAUSAL)
    real = np.append(task.support.mask, [True] * 3)
    inputs, targets = (
        jnp.where(real[:, None], jnp.concatenate([a, b]), 0)  # As padding counts.
        for a, b in zip(task.support[:2], task.query[:2])
    )

    @jax.jit
    def after(k):  # The others may be padding, since it is as if absent.
        mask = real & (jnp.arange(8) < k)
        read = learner.adapt(jax.random.key(0), meta, mj.Batch(inputs, targets, mask))
        return learner.predict(meta, read, inputs[k][None])[0]

    expected = np.stack([after(k) for k in range(8)])
    predict = jax.jit(mj.predict_sequence(IDENTITY, CAUSAL))
    outputs = predict(meta, mj.Batch(inputs, targets, real))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    objective = mj.sequence_loss(
        IDENTITY, CAUSAL, losses.squared_error, again=losses.squared_error
    )
    loss, metrics = jax.jit(objective)(jax.random.key(0), meta, task)
    cost = np.square(expected - targets)[real].mean()
    for actual in (loss, metrics["loss"], metrics["again"]):
        np.testing.assert_allclose(actual, cost, rtol=1e-4)


def test_queries_do_not_see_each_other_through_the_normalisation_of_an_embedding():
    embedding = mj.models.conv4(None, width=2, normalization="support")
    reader = mj.models.in_context_transformer(3, width=4, layers=1, heads=1)
    learner = mj.in_context(embedding, reader)
    images = np.random.default_rng(0).normal(size=(9, 8, 8, 1)).astype(np.float32)
    support = mj.Batch(images[:6], np.arange(6) % 3)

    @jax.jit
    def predict(queries):
        meta = learner.init(jax.random.key(0), support.inputs)
        read = learner.adapt(jax.random.key(0), meta, support)
        return learner.predict(meta, read, queries)

    together = predict(images[6:])
    changed = predict(np.concatenate([images[6:7], 3 + 2 * images[7:]]))
    np.testing.assert_allclose(together[0], changed[0], atol=1e-5)
    assert np.abs(together[1:] - changed[1:]).max() > 1e-3
