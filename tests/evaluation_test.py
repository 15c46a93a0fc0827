"""Meta-testing: frozen tasks, honest intervals, paired comparisons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import losses

SAMPLER = mj.data.Sinusoid(shots=5, queries=5)
MODEL = mj.models.mlp([8], 1)


@functools.cache  # One compilation a number of steps.
def objective(num_steps):
    learner = mj.maml(MODEL, losses.squared_error, optax.sgd(0.01), num_steps)
    return mj.query_loss(learner, losses.squared_error)


@pytest.fixture(scope="module")
def meta():
    return MODEL.init(jax.random.key(0), jnp.ones((1, 1)))


def evaluate(meta, num_steps=1, seed=1, num_tasks=20, **kwargs):
    return mj.evaluate(
        objective(num_steps),
        meta,
        SAMPLER,
        key=jax.random.key(seed),
        num_tasks=num_tasks,
        **kwargs,
    )


def test_the_chunk_changes_neither_tasks_nor_values(meta):
    reported = []
    whole = evaluate(meta)
    chunked = evaluate(meta, tasks_per_chunk=7, report=reported.append)
    assert whole.tasks_hash == chunked.tasks_hash
    np.testing.assert_allclose(whole.values["loss"], chunked.values["loss"], rtol=1e-5)
    assert whole.values["loss"].shape == (20,) and reported == [7, 7, 6]


@pytest.mark.parametrize("num_tasks", [20, 7])  # 7 cannot be divided.
def test_devices_that_share_the_tasks_change_neither_tasks_nor_values(meta, num_tasks):
    mesh = mj.estimators.task_mesh(4)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    one = evaluate(meta, num_tasks=num_tasks)
    shared = evaluate(jax.device_put(meta, everywhere), num_tasks=num_tasks)
    assert one.tasks_hash == shared.tasks_hash
    np.testing.assert_allclose(one.values["loss"], shared.values["loss"], rtol=1e-5)


def test_evaluate_within_a_compiled_function_says_so(meta):
    with pytest.raises(ValueError, match="call it outside of jit"):
        jax.jit(evaluate)(meta)


def test_meta_parameters_may_be_numpy_arrays_or_none_at_all(meta):
    plain = evaluate(jax.device_get(meta)).values["loss"]
    np.testing.assert_array_equal(plain, evaluate(meta).values["loss"])

    def mean_target(key, meta, task):
        return None, {"mean": jnp.mean(task.query.targets)}

    key = jax.random.key(0)
    result = mj.evaluate(mean_target, (), SAMPLER, key=key, num_tasks=3)
    assert result.values["mean"].shape == (3,)


def test_the_hash_names_the_tasks_and_nothing_else(meta):
    first = evaluate(meta)
    other_meta = jax.tree.map(lambda leaf: leaf + 1, meta)
    assert evaluate(other_meta, num_steps=3).tasks_hash == first.tasks_hash
    assert evaluate(meta, seed=2).tasks_hash != first.tasks_hash
    assert evaluate(meta, num_tasks=21).tasks_hash != first.tasks_hash


def test_values_equal_those_of_a_loop_over_tasks(meta):
    draw_key, _ = jax.random.split(jax.random.key(1))
    learner = mj.maml(MODEL, losses.squared_error, optax.sgd(0.01), 1)
    for i, value in enumerate(evaluate(meta, num_tasks=3).values["loss"]):
        support, query = SAMPLER(jax.random.fold_in(draw_key, i))
        adapted = learner.adapt(jax.random.key(0), meta, support)
        outputs = learner.predict(meta, adapted, query.inputs)
        np.testing.assert_allclose(
            value, np.mean((outputs - query.targets) ** 2), rtol=1e-5
        )


def test_the_interval_covers_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        mean, interval = mj.mean_and_interval(rng.normal(0.7, 0.2, size=100))
        covered += abs(mean - 0.7) < interval
    assert 0.93 < covered / 2000 < 0.965


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_interval_of_a_few_seeds_covers_the_truth_as_often(num_seeds):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(4000):
        mean, interval = mj.mean_and_interval(rng.normal(0.7, 0.2, size=num_seeds))
        covered += abs(mean - 0.7) < interval
    assert 0.94 < covered / 4000 < 0.96
    # Quantiles as tables have them.
    quantile = {2: 12.7062, 3: 4.30265, 5: 2.77645}[num_seeds]
    values = np.arange(num_seeds)
    expected = quantile * np.std(values, ddof=1) / np.sqrt(num_seeds)
    interval = mj.summarize(values).interval
    np.testing.assert_allclose(interval, expected, rtol=1e-4)


def test_an_interval_needs_two_tasks():
    with pytest.raises(ValueError, match="at least two"):
        mj.mean_and_interval(np.array([1.0]))


def test_a_task_that_diverges_spoils_the_mean_and_is_counted():
    summary = mj.summarize(np.array([1.0, 2.0, 3.0, 4.0, np.nan]))
    assert np.isnan(summary.mean) and np.isnan(summary.interval)
    assert (summary.median, summary.num_tasks, summary.num_nonfinite) == (3.0, 5, 1)
    assert mj.summarize(np.array([1.0, np.inf])).mean == np.inf


def test_a_classifier_that_diverges_on_one_task_is_counted_there():
    learner = mj.MetaLearner(
        init=lambda key, inputs: 0.0,
        adapt=lambda key, meta, support: support.targets[0],
        predict=lambda meta, adapted, inputs: jnp.full((2, 2), 1 / (adapted - 1.0)),
    )

    def sampler(key):  # Labels of 1 for about half of the tasks.
        batch = mj.Batch(jnp.zeros((2, 1)), jnp.full(2, jax.random.bits(key) % 2, int))
        return mj.Task(batch, batch)

    objective = mj.query_loss(learner, losses.accuracy)
    accuracy = mj.evaluate(
        objective, {}, sampler, key=jax.random.key(0), num_tasks=12
    ).values["loss"]
    number = mj.summarize(accuracy).num_nonfinite
    assert 0 < number < 12
    assert (accuracy[np.isfinite(accuracy)] == 1).all()


def test_no_tasks_are_refused(meta):
    with pytest.raises(ValueError, match="at least one task"):
        evaluate(meta, num_tasks=0)


def test_a_paired_comparison_is_sharper_than_two_intervals(meta):
    before, after = evaluate(meta, 0, num_tasks=100), evaluate(meta, 1, num_tasks=100)
    mean, interval = mj.paired_difference(before, after, "loss")
    means = [np.mean(result.values["loss"]) for result in (before, after)]
    np.testing.assert_allclose(mean, means[0] - means[1], rtol=1e-4)
    each = [mj.mean_and_interval(r.values["loss"])[1] for r in (before, after)]
    assert interval < max(each)


def test_a_paired_comparison_refuses_other_tasks(meta):
    with pytest.raises(ValueError, match="same tasks"):
        mj.paired_difference(evaluate(meta), evaluate(meta, seed=2), "loss")
