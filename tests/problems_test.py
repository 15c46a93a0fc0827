"""Trainings drawn by keys: what they are, against networks and functions written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import problems


def tasks():
    inputs = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return mj.data.FewShot(
        mj.data.from_arrays(inputs, np.arange(40) % 4), ways=2, shots=4, queries=3
    )


WIDTHS, DEPTHS = (2, 9), (1, 3)
PERCEPTRONS = problems.perceptrons(tasks(), 2, 5, widths=WIDTHS, depths=DEPTHS)


@partial(jax.jit, static_argnums=0)
def begun(problem, key):
    """A task, its params and the gradient of a step."""
    task_key, init_key, key = jax.random.split(key, 3)
    task = problem.sample(task_key)
    params = problem.init(init_key, task)
    grads = jax.grad(problem.loss, argnums=1)(key, params, task)
    return task, params, grads, problem.losses(params, task)


@pytest.mark.parametrize("seed", range(4))
def test_a_perceptron_is_the_ordinary_one_of_its_size(seed):
    sized, params, grads, losses = begun(PERCEPTRONS, jax.random.key(seed))
    width, depth = int(sized.width), int(sized.depth)

    def loss(examples):
        x = np.asarray(examples.inputs, np.float64)
        for index, layer in enumerate(params["hidden"][:depth]):
            kernel = np.asarray(layer["kernel"])[
                : None if index == 0 else width, :width
            ]
            x = np.maximum(x @ kernel + np.asarray(layer["bias"])[:width], 0)
        x = x @ np.asarray(params["head"]["kernel"])[:width]
        x += np.asarray(params["head"]["bias"])
        logs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        return -logs[np.arange(len(logs)), np.asarray(examples.targets)].mean()

    np.testing.assert_allclose(losses["train"], loss(sized.task.support), rtol=1e-5)
    np.testing.assert_allclose(losses["test"], loss(sized.task.query), rtol=1e-5)
    for index, layer in enumerate(grads["hidden"]):
        moved = np.asarray(layer["kernel"]) != 0
        assert not moved[:, width:].any() and moved.any() == (index < depth)


def test_sizes_are_drawn_from_their_ranges():
    keys = jax.random.split(jax.random.key(0), 300)
    sized = jax.jit(jax.vmap(PERCEPTRONS.sample))(keys)
    assert set(np.unique(sized.width)) == set(range(2, 10))
    assert set(np.unique(sized.depth)) == {1, 2, 3}


def test_functions_are_what_they_are_called():
    matrix_task, params, grads, losses = begun(
        problems.quadratics(3), jax.random.key(0)
    )
    residuals = np.asarray(matrix_task.matrix) @ params - matrix_task.target
    np.testing.assert_allclose(losses["train"], residuals @ residuals, rtol=1e-5)
    np.testing.assert_allclose(grads, 2 * residuals @ matrix_task.matrix, rtol=1e-4)
    valley = problems.rosenbrock(2)
    np.testing.assert_allclose(
        valley.losses(jnp.array([-1.0, 2.0]), jnp.float32(10))["train"], 10 + 4
    )
    assert valley.losses(jnp.ones(4), jnp.float32(7))["train"] == 0
    walls, *_ = begun(problems.rosenbrock(4), jax.random.key(1))
    assert 1 <= walls <= 100


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: problems.networks(tasks(), mj.models.mlp([], 2), 0), "batch must be"),
        (lambda: problems.quadratics(0), "dim must be positive"),
        (lambda: problems.rosenbrock(1), "at least 2"),
        (
            lambda: problems.perceptrons(tasks(), 2, 1, widths=(3, 2), depths=(1, 1)),
            r"widths must be a range.*\(3, 2\)",
        ),
        (
            lambda: problems.perceptrons(tasks(), 2, 1, widths=(2, 2), depths=(0, 1)),
            r"depths must be a range.*\(0, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
