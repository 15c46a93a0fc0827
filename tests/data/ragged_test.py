"""Ragged tasks: which sizes they have, and that padding is padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import Batch, Task
from metajax.data.class_arrays import from_arrays
from metajax.data.few_shot import FewShot
from metajax.data.ragged import Ragged, check_support

NUM_TASKS = 3000
WAYS, SHOTS, QUERIES = 4, 3, 5  # Of the largest task.


def _largest():
    """Tasks of examples that name themselves, by numbers from 1."""
    inputs = np.arange(1, 81, dtype=np.int32)[:, None]
    return FewShot(from_arrays(inputs, np.arange(80) % 8), WAYS, SHOTS, QUERIES)


def _sampler(ways=(2, 4), shots=(1, 3), queries=(2, 5)):
    return Ragged(_largest(), ways, shots, queries)


@jax.jit
def _draw(sampler, keys):
    return jax.vmap(sampler)(keys)


@pytest.fixture(scope="module")
def tasks():
    return jax.device_get(_draw(_sampler(), _keys()))


def _keys():
    return jax.random.split(jax.random.key(0), NUM_TASKS)


def _sizes(batch):
    """Real examples of each class, [tasks, ways]."""
    return batch.mask.reshape(NUM_TASKS, WAYS, -1).sum(axis=2)


def _assert_uniform(values, low, high):
    tally = np.bincount(values, minlength=high + 1)
    assert tally[:low].sum() == 0 and len(tally) == high + 1
    expected, freedom = len(values) / (high + 1 - low), high - low
    statistic = np.sum((tally[low:] - expected) ** 2 / expected)
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def test_sizes_are_uniform_in_their_ranges(tasks):
    shots, queries = _sizes(tasks.support), _sizes(tasks.query)
    present = shots > 0
    np.testing.assert_array_equal(present, queries > 0)
    ways = present.sum(axis=1)
    np.testing.assert_array_equal(present, np.arange(WAYS) < ways[:, None])
    _assert_uniform(ways, 2, 4)
    _assert_uniform(shots[present], 1, 3)
    _assert_uniform(queries[present], 2, 5)
    first = [shots[:, 0], shots[:, 1], queries[:, 0]]  # Present in every task.
    correlations = np.corrcoef(first) - np.eye(3)
    assert np.abs(correlations).max() < 5 / math.sqrt(NUM_TASKS)


def test_real_examples_are_those_of_a_task_and_padding_is_zero(tasks):
    for batch, examples in ((tasks.support, SHOTS), (tasks.query, QUERIES)):
        assert batch.inputs.shape == (NUM_TASKS, WAYS * examples, 1)
        assert batch.mask.dtype == bool and batch.mask.any(axis=1).all()
        assert (batch.inputs[..., 0] > 0).tolist() == batch.mask.tolist()
        labels = np.repeat(np.arange(WAYS), examples)
        np.testing.assert_array_equal(batch.targets, np.tile(labels, (NUM_TASKS, 1)))
    for support, query in zip(tasks.support.inputs[:50], tasks.query.inputs[:50]):
        examples = np.concatenate(
            [support.reshape(WAYS, -1), query.reshape(WAYS, -1)], axis=1
        )
        real = examples[examples > 0]
        assert len(set(real)) == len(real)
        for row in examples:
            assert len(set((row[row > 0] - 1) % 8)) <= 1  # One class a way.


def test_full_ranges_of_one_value_give_the_task_beneath():
    fixed = Ragged(_largest(), (WAYS, WAYS), (SHOTS, SHOTS), (QUERIES, QUERIES))
    key = jax.random.key(3)
    task = jax.jit(fixed)(key)
    beneath = jax.jit(_largest())(jax.random.split(key, 4)[0])
    for batch, expected in zip(task, beneath):
        assert batch.mask.all()
        np.testing.assert_array_equal(batch.inputs, expected.inputs)


def test_every_class_that_is_asked_for_is_shown(tasks):
    check_support(tasks)


@pytest.mark.parametrize(
    "ranges, message",
    [
        ({"ways": (0, 3)}, r"ways must be a range .* from 1 to 4.*got \(0, 3\)"),
        ({"ways": (2, 5)}, r"ways .* from 1 to 4, the ways of its sampler"),
        ({"shots": (3, 2)}, r"shots .* from 1 to 3.*got \(3, 2\)"),
        ({"queries": (1, 6)}, r"queries .* from 1 to 5"),
        ({"queries": (1,)}, r"queries must be a range \(fewest, most\)"),
    ],
)
def test_ranges_beyond_the_task_beneath_are_refused(ranges, message):
    with pytest.raises(ValueError, match=message):
        _sampler(**ranges)


def _batch(targets, mask=None):
    targets = jnp.asarray(targets)
    mask = None if mask is None else jnp.asarray(mask, bool)
    return Batch(jnp.zeros((*targets.shape, 2)), targets, mask)


@pytest.mark.parametrize(
    "support, query, missing",
    [
        (_batch([0, 1, 2]), _batch([0, 2]), None),
        (_batch([0, 1]), _batch([0, 2, 3]), "Task 0 asks for class 2, 3,"),
        (_batch([0, 1], [1, 0]), _batch([0, 1], [1, 0]), None),
        (_batch([0, 1], [1, 0]), _batch([0, 1]), "Task 0 asks for class 1,"),
        (_batch([[0, 1], [0, 1]]), _batch([[1], [0]]), None),
        (
            _batch([[0, 1], [0, 1]], [[1, 1], [0, 1]]),
            _batch([[1], [0]]),
            "Task 1 asks for class 0,",
        ),
    ],
)
def test_a_class_asked_for_and_not_shown_is_named(support, query, missing):
    if missing is None:
        check_support(Task(support, query))
    else:
        with pytest.raises(ValueError, match=missing):
            check_support(Task(support, query))
