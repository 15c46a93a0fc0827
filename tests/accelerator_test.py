"""What an accelerator computes is what the CPU does, where there is one.

    JAX_PLATFORMS=cuda,cpu python -m pytest tests/accelerator_test.py

Elsewhere these tests are skipped.
"""

from functools import partial

import jax
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import adjoints, losses
from tests.algorithms_test import LEARNERS, LOSS, draw, made, random_task, start

pytestmark = [
    pytest.mark.skipif(
        jax.default_backend() == "cpu", reason="JAX finds no accelerator here"
    ),
    # By default a GPU rounds the factors of a product to ten bits.
    pytest.mark.usefixtures("full_precision"),
]
TOLERANCE = 1e-3  # Of the norm; solvers and second derivatives multiply rounding.


@pytest.fixture
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def on_both(function, *arguments):
    """Results of the accelerator and of the CPU."""
    results = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        there = jax.device_put(jax.device_get(arguments), device)
        results.append(jax.device_get(jax.jit(function)(*there)))
    return results


def assert_near(actual, expected):
    """Each array is within the tolerance, of its norm or else of that of all."""
    whole = float(optax.tree.norm(expected))
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        error = np.linalg.norm(np.asarray(x - y).ravel())
        assert error <= TOLERANCE * max(np.linalg.norm(y.ravel()), 1e-2 * whole)


def meta_gradient(learner, meta, tasks):
    estimate = mj.estimators.backprop(mj.query_loss(learner, LOSS))
    (loss, _), gradient = estimate(jax.random.key(6), meta, tasks)
    return loss, gradient


@pytest.mark.parametrize("name", LEARNERS)
def test_meta_gradients_of_every_learner(name):
    learner = made(name)
    meta, _ = start(learner)
    tasks = draw(jax.random.key(5), random_task, np.arange(4))
    assert_near(*on_both(partial(meta_gradient, learner), meta, tasks))


@pytest.mark.parametrize(
    "adjoint",
    [
        adjoints.unroll(),
        adjoints.unroll(remat="nested"),
        adjoints.mixed_mode(),
        adjoints.unroll(last=0),
    ],
    ids=["unroll", "nested", "mixed", "first_order"],
)
@pytest.mark.parametrize("normalization", ["transductive", "support", "group"])
def test_second_derivatives_of_convolutions(normalization, adjoint):
    model = mj.models.conv4(5, width=16, normalization=normalization)
    learner = mj.maml(model, LOSS, optax.sgd(0.1), 2, adjoint=adjoint)
    sampler = mj.data.FewShot(mj.data.glyphs("train"), ways=5, shots=1, queries=1)
    tasks = draw(jax.random.key(0), sampler, np.arange(4))
    meta = learner.init(jax.random.key(1), tasks.support.inputs[0])
    assert_near(*on_both(partial(meta_gradient, learner), meta, tasks))


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: mj.data.Sinusoid(shots=5, queries=5),
        lambda: mj.data.FewShot(mj.data.glyphs("train"), ways=5, shots=1, queries=1),
    ],
    ids=["sinusoid", "glyphs"],
)
def test_the_same_tasks_are_drawn(sampler):
    drawn = jax.vmap(sampler())
    actual, expected = on_both(
        lambda key: drawn(jax.random.split(key, 8)), jax.random.key(3)
    )
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_training_stays_beside_that_of_the_cpu():
    model = mj.models.mlp([20], 1)
    learner = mj.maml(model, losses.squared_error, optax.sgd(0.01), 1)
    sampler = mj.data.Sinusoid(shots=5, queries=5)
    optimizer = optax.sgd(1e-3)
    step = mj.train_step(
        mj.estimators.backprop(mj.query_loss(learner, losses.squared_error)), optimizer
    )
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            state = mj.init_state(jax.random.key(0), learner, optimizer, sampler)
            state, _ = mj.train(step, state, sampler, num_tasks=8, num_steps=50)
            found.append(jax.device_get(state.meta))
    assert_near(*found)
