"""A stream depends on its key alone: on no batch, and on no setting of JAX."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import losses
from metajax.streams import threefry

SAMPLER = mj.data.Sinusoid(shots=4, queries=3)
OPTIMIZER = optax.sgd(0.01)
MODEL = mj.models.mlp([3], 1)
# Minibatches, so that tasks' own keys have a part.
LEARNER = mj.reptile(MODEL, losses.squared_error, OPTIMIZER, 2, batch_size=2)
OBJECTIVE = mj.query_loss(LEARNER, losses.squared_error)
OTHERS = ["rbg", "unsafe_rbg"]


def start(seed=0):
    return mj.init_state(jax.random.key(seed), LEARNER, OPTIMIZER, SAMPLER)


def steps_taken(state, *numbers):
    estimator = mj.estimators.backprop(OBJECTIVE, tasks_per_chunk=2)
    step = mj.train_step(estimator, OPTIMIZER)
    for number in numbers:
        state, _ = mj.train(
            step, state, SAMPLER, num_tasks=4, num_steps=number, at_most=8
        )
    return jax.device_get(state.meta)


def measured(meta, chunk):
    return mj.evaluate(
        OBJECTIVE,
        meta,
        SAMPLER,
        key=jax.random.key(1),
        num_tasks=12,
        tasks_per_chunk=chunk,
    )


@pytest.fixture(scope="module")
def expected():
    meta = jax.device_get(start().meta)
    return meta, measured(meta, 12), steps_taken(start(), 8)


@pytest.mark.parametrize("generator", OTHERS)
def test_no_chunk_changes_the_tasks_under_any_generator(expected, generator):
    meta, evaluation, _ = expected
    with jax.default_prng_impl(generator):
        chex.assert_trees_all_equal(jax.device_get(start().meta), meta)
        for chunk in (1, 5, 12):
            found = measured(meta, chunk)
            assert found.tasks_hash == evaluation.tasks_hash
            np.testing.assert_allclose(
                found.values["loss"], evaluation.values["loss"], rtol=1e-5
            )


@pytest.mark.parametrize("generator", OTHERS)
def test_training_in_parts_is_training_at_once_under_any_generator(expected, generator):
    _, _, meta = expected
    with jax.default_prng_impl(generator):
        chex.assert_trees_all_equal(steps_taken(start(), 4, 4), meta)
        # A state made by hand may have a key of that generator.
        parts, whole = (
            steps_taken(start()._replace(key=jax.random.key(0)), *numbers)
            for numbers in ((4, 4), (8,))
        )
    chex.assert_trees_all_equal(parts, whole)


def test_glyphs_are_the_same_under_any_generator():
    def drawn():
        return mj.data.glyphs("train", num_classes=2, examples_per_class=1).inputs

    expected = np.asarray(drawn())
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(drawn(), expected)


@pytest.mark.parametrize("generator", OTHERS)
def test_estimators_give_tasks_the_same_keys_under_any_generator(generator):
    def lottery(key, meta, task):
        loss = meta * jax.random.normal(key) + 0 * task
        return loss, {"loss": loss}

    def estimate(key, chunk):
        estimator = mj.estimators.backprop(lottery, tasks_per_chunk=chunk)
        return jax.jit(estimator)(key, jnp.float32(1), jnp.zeros(4))[1]

    key, other = jax.random.key(3), jax.random.key(3, impl=generator)
    for chunk in (None, 1, 2):
        np.testing.assert_allclose(estimate(other, chunk), estimate(key, None), 1e-6)


def test_a_key_of_threefry_is_itself_and_an_array_of_its_data_is_that_key():
    key = jax.random.key(5)
    assert threefry(key) is key
    assert threefry(jax.random.PRNGKey(5)) == key
    with jax.default_prng_impl("rbg"):
        assert threefry(jax.random.PRNGKey(5)) == key
    many = threefry(jax.random.split(jax.random.key(5, impl="rbg"), 3))
    assert (many == jax.random.split(key, 3)).all()


@pytest.mark.parametrize("seed", [0, np.uint32(0), np.zeros(2), None])
def test_a_seed_is_no_key(seed):
    with pytest.raises(ValueError, match=r"one of jax.random.key\(seed\): got "):
        threefry(seed)


def test_the_strict_modes_of_jax_find_nothing():
    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        meta = steps_taken(start(), 2)
        measured(meta, 12)


def test_an_optimizer_with_a_key_of_its_own_may_be_checked_for_reuse():
    noisy = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), OPTIMIZER)
    step = mj.train_step(mj.estimators.backprop(OBJECTIVE), noisy)
    with jax.debug_key_reuse(True):
        state = mj.init_state(jax.random.key(0), LEARNER, noisy, SAMPLER)
        first, _ = mj.train(step, state, SAMPLER, num_tasks=4, num_steps=2)
    assert int(first.step) == 2
