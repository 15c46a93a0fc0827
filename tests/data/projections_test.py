"""Projected tasks: as many maps as asked for, each linear, with its own names."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.projections import Projections

# Each image of the second class is the negative of one of the first.
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 1)).astype(np.uint8)
DATA = mj.data.from_arrays(
    np.concatenate([IMAGES, 255 - IMAGES, IMAGES[:2, ::-1]]),
    np.array([0, 0, 0, 1, 1, 1, 2, 2]),
)


@partial(jax.jit, static_argnums=1)
def _draw(sampler, num_tasks):
    return jax.vmap(sampler)(jax.random.split(jax.random.key(0), num_tasks))


def _tasks(num_tasks=300, **options):
    """All eight examples of each task, `[tasks, examples, ...]`."""
    tasks = jax.device_get(_draw(Projections(DATA, 5, 3, **options), num_tasks))
    return (
        np.concatenate([a, b], axis=1)
        for a, b in zip(tasks.support[:2], tasks.query[:2])
    )


def _sorted(inputs, targets):
    """A task's examples in an order that does not depend on how they were drawn."""
    order = np.argsort(inputs[:, 0])
    return inputs[order], targets[order]


@pytest.mark.parametrize("num_maps", [1, 5, None])
def test_there_are_as_many_maps_as_asked_for(num_maps):
    found = []
    for inputs, targets in map(_sorted, *_tasks(num_tasks=100, num_maps=num_maps)):
        alike = [names for one, names in found if np.allclose(one, inputs, atol=1e-3)]
        for names in alike:
            np.testing.assert_array_equal(targets, names)
        found += [] if alike else [(inputs, targets)]
    assert len(found) == (num_maps or 100)


def test_a_task_has_every_example_once_under_one_permutation_of_its_classes():
    inputs, targets = _tasks()
    for task, names in zip(inputs, targets):
        sums = np.abs(task[:, None] + task[None]).max(axis=2)
        pairs = np.flatnonzero(sums.min(axis=1) < 1e-4)  # Examples and their negatives.
        assert len(pairs) == 6
        others = np.setdiff1d(np.arange(8), pairs)
        assert names[others[0]] == names[others[1]]
        _, counts = np.unique(names, return_counts=True)
        assert sorted(counts) == [2, 3, 3]
        assert not np.isin(names[pairs], names[others]).any()
    # The third class is called each name as often.
    called = np.array([np.bincount(names, minlength=3).argmin() for names in targets])
    share = np.bincount(called, minlength=3) / len(called)
    assert np.abs(share - 1 / 3).max() < 4 * np.sqrt(2 / 9 / len(called))


def test_maps_are_linear():
    a, b = np.random.default_rng(1).normal(size=(2, 4, 6, 1)).astype(np.float32)
    data = mj.data.from_arrays(np.stack([a, b, a - 2 * b]), np.arange(3))
    task = jax.device_get(jax.jit(Projections(data, 2, 1))(jax.random.key(0)))
    projected = np.concatenate([task.support.inputs, task.query.inputs])
    values = np.linalg.svd(projected)[1]
    assert values[1] > 0.1 and values[2] < 1e-4


def test_maps_are_normal_and_keep_the_scale_of_an_image():
    inputs, _ = _tasks(num_tasks=1000)
    one = inputs[:, 0].astype(np.float64)  # Another example and another map each.
    assert one.shape == (1000, 24)
    assert abs(one.mean()) < 4 / np.sqrt(one.size)
    assert abs(one.var() - 1) < 4 * np.sqrt(2 / one.size)
    assert abs((one**4).mean() - 3) < 4 * np.sqrt(96 / one.size)


def test_images_are_made_smaller_by_averaging_and_scaled_one_by_one():
    shapes = Projections(DATA, 5, 3, size=2)
    vectors, classes = jax.jit(lambda sampler: sampler._examples(jax.random.key(0)))(
        shapes
    )
    expected = IMAGES.astype(np.float64).reshape(3, 2, 2, 2, 3).mean(axis=(2, 4))
    expected = expected.reshape(3, 4)
    expected -= expected.mean(axis=1, keepdims=True)
    expected /= expected.std(axis=1, keepdims=True)
    actual = np.asarray(vectors)[np.asarray(classes) == 0]
    order = [np.abs(actual - row).max(axis=1).argmin() for row in expected]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(actual[order], expected, atol=1e-4)


def test_an_image_of_one_colour_becomes_zeros():
    data = mj.data.from_arrays(np.full((4, 2, 2, 1), 7, np.uint8), np.arange(4) % 2)
    task = jax.jit(Projections(data, 2, 2))(jax.random.key(0))
    np.testing.assert_array_equal(task.support.inputs, np.zeros((2, 4)))


def test_a_rebuilt_sampler_is_not_traced_again():
    traces = []

    @jax.jit
    def draw(sampler, key):
        traces.append(sampler)
        return sampler(key)

    one, again, other = (
        draw(Projections(DATA, 5, 3, num_maps=2), jax.random.key(k)) for k in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert jnp.any(one.support.inputs != other.support.inputs)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shots": 0}, "must be at least 1: got 0, 3"),
        ({"num_maps": 0}, "must be at least 1: got 5, 3, 0"),
        ({"size": 4}, r"whose height and width `size` divides: got \(8, 4, 6, 1\)"),
        ({"shots": 6}, "more examples than the 8 there are"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Projections(DATA, **{"shots": 5, "queries": 3} | options)
    vectors = mj.data.from_arrays(np.zeros((8, 24), np.uint8), np.arange(8) % 2)
    with pytest.raises(ValueError, match="needs images"):
        Projections(vectors, 5, 3)
