"""Neural processes read sets of points, and approach the exact posterior from above."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import losses

DATA = mj.data.GaussianProcess(10, 10)
WIDTH = 32
ENCODER = mj.models.mlp([WIDTH, WIDTH], WIDTH)
DECODER = mj.models.mlp([WIDTH, WIDTH], 2)
LEARNERS = {
    "cnp": mj.cnp(ENCODER, DECODER),
    "anp": mj.anp(ENCODER, DECODER, mj.models.mlp([WIDTH], WIDTH)),
}
NUM_TASKS = 2000


@pytest.fixture(params=LEARNERS)
def learner(request):
    return LEARNERS[request.param]


@partial(jax.jit, static_argnums=0)
def _predict(learner, support, inputs):
    meta = learner.init(jax.random.key(0), support.inputs)
    adapted = learner.adapt(jax.random.key(1), meta, support)
    return meta, adapted, learner.predict(meta, adapted, inputs)


@pytest.fixture(scope="module")
def task():
    return jax.device_get(jax.jit(DATA)(jax.random.key(0)))


def _mlp(params, inputs):
    for name in ("Dense_0", "Dense_1", "head"):
        if name in params:
            inputs = inputs @ params[name]["kernel"] + params[name]["bias"]
            inputs = inputs if name == "head" else np.maximum(inputs, 0)
    return inputs


@pytest.mark.parametrize("name", LEARNERS)
def test_predictions_are_those_of_the_equation(name, task):
    (x, y, _), (asked, _, _) = task
    meta, _, (mean, std) = jax.device_get(_predict(LEARNERS[name], task.support, asked))
    values = _mlp(meta.encoder, np.concatenate([x, y], axis=1))
    weights = np.full((len(asked), len(x)), 1 / len(x))
    if name == "anp":
        scores = np.exp(_mlp(meta.keys, asked) @ _mlp(meta.keys, x).T / np.sqrt(WIDTH))
        weights = scores / scores.sum(axis=1, keepdims=True)
    outputs = _mlp(meta.decoder, np.concatenate([asked, weights @ values], axis=1))
    np.testing.assert_allclose(mean, outputs[:, :1], atol=1e-4)
    expected = 0.1 + 0.9 * np.log1p(np.exp(outputs[:, 1:]))
    np.testing.assert_allclose(std, expected, atol=1e-4)


def test_neither_order_nor_padding_nor_other_queries_change_a_prediction(learner, task):
    support, query = task
    _, _, expected = _predict(learner, support, query.inputs)
    mask = np.arange(13) % 4 != 1  # 10 of 13 are real.
    mask[-1] = False
    mask[1] = True
    inputs, targets = np.full((2, 13, 1), np.nan, np.float32)
    inputs[mask], targets[mask] = support.inputs[::-1], support.targets[::-1]
    shown = mj.base.Masked(query.inputs[:5], np.array([1, 1, 1, 0, 0], bool))
    _, _, actual = _predict(learner, mj.Batch(inputs, targets, mask), shown)
    for a, b in zip(actual, expected):
        np.testing.assert_allclose(a, b[:5], atol=1e-5)
    objective = mj.query_loss(learner, losses.gaussian_nll)
    slope = jax.jit(jax.grad(objective, argnums=1, has_aux=True))
    tasks = (task, mj.Task(*(mj.Batch(inputs, targets, mask),) * 2))
    tasks = tasks[0]._replace(query=task.support), tasks[1]
    meta = learner.init(jax.random.key(0), support.inputs)
    slopes = [slope(jax.random.key(0), meta, each)[0] for each in tasks]
    chex.assert_trees_all_close(*slopes, atol=1e-5)


def test_without_examples_nothing_is_known_and_all_is_finite(learner, task):
    support, query = task
    outputs = [
        _predict(learner, mj.Batch(support.inputs, y, np.zeros(10, bool)), query.inputs)
        for y in (support.targets, 9 + support.targets)
    ]
    for a, b in zip(*(each[2] for each in outputs)):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


def test_dtypes_are_kept(learner, task):
    meta = jax.eval_shape(learner.init, jax.random.key(0), task.support.inputs)
    meta, task = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), (meta, task)
    )

    def solve(meta, task):
        adapted = learner.adapt(jax.random.key(1), meta, task.support)
        return adapted, learner.predict(meta, adapted, task.query.inputs)

    dtypes = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(solve, meta, task))}
    assert dtypes - {jnp.dtype(bool)} == {jnp.dtype(jnp.bfloat16)}


def _costs(objective, meta):
    result = mj.evaluate(
        objective,
        meta,
        DATA,
        key=jax.random.key(1),
        num_tasks=NUM_TASKS,
        tasks_per_chunk=NUM_TASKS,
    )
    return result.values["loss"].astype(np.float64)


def _of(predict):
    """The cost of predictions that are not learned."""

    def objective(key, meta, task):
        outputs = predict(task.support, task.query.inputs)
        loss = losses.gaussian_nll(outputs, task.query.targets)
        return loss, {"loss": loss}

    return objective


def _prior(support, inputs):
    return np.zeros(inputs.shape, np.float32), np.full(inputs.shape, np.sqrt(1.01))


@pytest.fixture(scope="module")
def costs():
    """In nats, of each of the same tasks."""
    costs = {"exact": _costs(_of(DATA.posterior), {}), "prior": _costs(_of(_prior), {})}
    for name, learner in LEARNERS.items():
        objective = mj.query_loss(learner, losses.gaussian_nll)
        optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 1000))
        step = mj.train_step(mj.estimators.backprop(objective), optimizer)
        state = mj.init_state(jax.random.key(0), learner, optimizer, DATA)
        state, _ = mj.train(step, state, DATA, num_tasks=16, num_steps=1000)
        costs[name] = _costs(objective, state.meta)
    return costs


def _above(costs, floor):
    """The mean of paired differences, and four of its standard errors."""
    gaps = costs - floor
    return gaps.mean(), 4 * gaps.std() / np.sqrt(NUM_TASKS)


@pytest.mark.parametrize("name, gap", [("prior", 1.5), ("cnp", 1.15), ("anp", 0.6)])
def test_the_posterior_is_a_lower_bound_and_training_comes_near(costs, name, gap):
    mean, margin = _above(costs[name], costs["exact"])
    assert margin < mean < gap


def test_the_prior_is_beaten_by_the_mean_and_the_mean_by_attention(costs):
    for better, worse in [("cnp", "prior"), ("anp", "cnp")]:
        mean, margin = _above(costs[worse], costs[better])
        assert mean > max(margin, 0.2)


@pytest.mark.parametrize("min_std", [0.0, 1.0])
def test_a_floor_that_is_none_is_refused(min_std):
    for make in (mj.cnp, partial(mj.anp, keys=ENCODER)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            make(ENCODER, DECODER, min_std=min_std)
