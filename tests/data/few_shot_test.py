"""What a few-shot task is: laws of the sampler, on examples that name themselves."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.class_arrays import from_arrays
from metajax.data.few_shot import FewShot, distinct
from metajax.data.transforms import quarter_turns

COUNTS = (4, 9, 4, 30, 5, 7)  # Examples a class.
NUM_TASKS = 4000


def _self_naming(counts=COUNTS):
    """Data whose input is the example's own index, and the class of each example.

    Examples of the classes are interleaved, so that a row read past its count, or in
    place of another, gives an index of the wrong class.
    """
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    return from_arrays(np.arange(len(labels), dtype=np.int32)[:, None], labels), labels


def _sampler(ways=3, shots=1, queries=3, counts=COUNTS, **options):
    return FewShot(_self_naming(counts)[0], ways, shots, queries, **options)


@jax.jit
def _draw_one(sampler, key):
    return sampler(key)


@jax.jit
def _draw_many(sampler, keys):
    return jax.vmap(sampler)(keys)


def _draw(sampler, num_tasks):
    """Support and query indices, [tasks, ways, examples], and their labels alike."""
    keys = jax.random.split(jax.random.key(0), num_tasks)
    tasks = jax.device_get(_draw_many(sampler, keys))

    def by_way(batch):
        shape = (num_tasks, sampler.ways, -1)
        return batch.inputs.reshape(shape), batch.targets.reshape(shape)

    return *by_way(tasks.support), *by_way(tasks.query)


def _assert_uniform(counts, expected):
    """Chi-square at five standard deviations, for draws that a fixed key repeats."""
    counts = np.ravel(counts)
    freedom = len(counts) - 1
    statistic = np.sum((counts - expected) ** 2 / expected)
    assert statistic < freedom + 5 * math.sqrt(2 * freedom), counts


def test_the_same_key_gives_the_same_task_and_another_key_another():
    one, again, other = (_draw_one(_sampler(), jax.random.key(k)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    examples = [set(task.query.inputs.ravel().tolist()) for task in (one, other)]
    assert examples[0] != examples[1]


def test_a_task_has_distinct_examples_of_distinct_classes_with_shared_labels():
    _, classes = _self_naming()
    support, support_labels, query, query_labels = _draw(_sampler(), NUM_TASKS)
    for shown, asked in zip(support, query):
        examples = np.concatenate([shown, asked], axis=1)
        assert len(set(examples.ravel())) == examples.size
        of_way = classes[examples]
        assert (of_way == of_way[:, :1]).all()  # One class a way, both batches alike.
        assert len(set(of_way[:, 0])) == 3
    for labels in (support_labels, query_labels):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(
            labels, np.broadcast_to([[0], [1], [2]], labels.shape)
        )
    assert support.shape[1:] == (3, 1) and query.shape[1:] == (3, 3)


def test_the_classes_of_a_task_are_of_one_group_and_equally_likely_within_it():
    groups = np.array(["x", "y", "x", "y", "z", "y"])  # z has too few for two ways.
    _, classes = _self_naming()
    support, *_ = _draw(_sampler(ways=2, groups=groups), NUM_TASKS)
    drawn = classes[support[..., 0]]  # [tasks, ways]
    assert (groups[drawn[:, 0]] == groups[drawn[:, 1]]).all()
    assert (drawn[:, 0] != drawn[:, 1]).all()
    pairs = np.zeros((6, 6))
    np.add.at(pairs, tuple(drawn.T), 1)
    expected = np.zeros((6, 6))
    for members in ([0, 2], [1, 3, 5]):
        orders = list(itertools.permutations(members, 2))
        expected[tuple(np.transpose(orders))] = NUM_TASKS / 2 / len(orders)
    assert pairs[expected == 0].sum() == 0
    _assert_uniform(pairs[expected > 0], expected[expected > 0])


def test_labels_number_the_classes_in_every_order_equally_often():
    _, classes = _self_naming()
    support, *_ = _draw(_sampler(), NUM_TASKS)
    drawn = classes[support[..., 0]]  # [tasks, ways]
    triples = np.zeros((6, 6, 6))
    np.add.at(triples, tuple(drawn.T), 1)
    orders = list(itertools.permutations(range(6), 3))
    tally = np.array([triples[order] for order in orders])
    assert tally.sum() == NUM_TASKS
    _assert_uniform(tally, NUM_TASKS / 120)


def test_each_example_is_equally_likely_in_support_and_in_query():
    _, classes = _self_naming()
    support, _, query, _ = _draw(_sampler(), NUM_TASKS)
    for examples in (support, query):
        tally = np.bincount(examples.ravel(), minlength=len(classes))
        for c in range(6):
            drawn = tally[classes == c]
            _assert_uniform(drawn, drawn.sum() / COUNTS[c])


def test_classes_of_very_different_sizes_give_every_example_and_no_other():
    counts = (2, 500, 2)
    _, classes = _self_naming(counts)
    support, _, query, _ = _draw(_sampler(counts=counts, queries=1), NUM_TASKS)
    examples = np.concatenate([support, query], axis=-1)  # [tasks, 3, 2]
    assert (classes[examples[..., 0]] == classes[examples[..., 1]]).all()
    assert (examples[..., 0] != examples[..., 1]).all()
    assert set(examples.ravel()) == set(range(504))
    # With as many ways as classes the labels permute them, all orders equally often.
    orders = collections.Counter(map(tuple, classes[support[..., 0]]))
    assert set(orders) == set(itertools.permutations(range(3)))
    _assert_uniform(list(orders.values()), NUM_TASKS / 6)


def test_vmap_over_keys_equals_a_loop():
    keys = jax.random.split(jax.random.key(0), NUM_TASKS)
    many = _draw_many(_sampler(), keys)
    for i in range(4):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], many)
        alone = _draw_one(_sampler(), keys[i])
        jax.tree.map(np.testing.assert_array_equal, one, alone)


def _tag_ways(key, images):
    del key
    assert images.shape == (3, 4, 1)  # Support and query of a way, together.
    return images + 1000 * jnp.arange(3, dtype=images.dtype)[:, None, None]


def test_a_sampler_rebuilt_from_its_data_is_not_traced_again():
    traces = []

    @jax.jit
    def draw(sampler, key):
        traces.append(sampler)
        return sampler(key)

    key = jax.random.key(0)
    for counts in (COUNTS, COUNTS, COUNTS[::-1]):
        # The data are an argument, no constant of the program: others may replace them.
        sampler = _sampler(counts=counts, transform=_tag_ways)
        _, classes = _self_naming(counts)
        support, query = draw(sampler, key)
        np.testing.assert_array_equal(query.inputs[:, 0] // 1000, query.targets)
        class_of_way = classes[support.inputs[:, 0] % 1000]
        of_queries = classes[query.inputs[:, 0] % 1000]
        np.testing.assert_array_equal(of_queries, class_of_way[query.targets])
    assert len(traces) == 1
    draw(_sampler(), key)
    assert len(traces) == 2


def test_quarter_turns_turn_support_and_query_of_a_class_alike():
    image = np.arange(9, dtype=np.int32).reshape(1, 3, 3, 1)
    data = from_arrays(np.repeat(image, 12, axis=0), np.arange(12) % 3)
    sampler = FewShot(data, ways=3, shots=1, queries=2, transform=quarter_turns)
    support, _, query, _ = _draw(sampler, 40)
    support, query = support.reshape(40, 3, 1, 9), query.reshape(40, 3, 2, 9)
    assert (support == query).all()
    assert len(np.unique(support[..., 0], axis=0)) > 1


def test_uint8_images_are_scaled_to_the_unit_interval():
    pixels = np.repeat(np.array([[0], [51], [255]], np.uint8), 2, axis=0)
    data = from_arrays(pixels, [0, 0, 1, 1, 2, 2])
    assert data.inputs.dtype == jnp.uint8
    sampler = FewShot(data, 3, 1, 1, permute_labels=False)
    task = _draw_one(sampler, jax.random.key(0))
    for batch in task:
        assert batch.inputs.dtype == jnp.float32
        np.testing.assert_allclose(batch.inputs, [[0], [0.2], [1]], rtol=1e-7)


@pytest.mark.parametrize(
    "kept, dtype",
    [(np.float32, np.float32), (np.int32, np.int32), (np.float16, np.float32)],
)
def test_other_inputs_keep_their_values_and_halves_become_floats(kept, dtype):
    values = np.array([[300], [-7], [255]]).astype(kept) * kept(3)
    data = from_arrays(np.repeat(values, 2, axis=0), [0, 0, 1, 1, 2, 2])
    sampler = FewShot(data, 3, 1, 1, permute_labels=False)
    task = _draw_one(sampler, jax.random.key(0))
    for batch in task:
        assert batch.inputs.dtype == dtype
        np.testing.assert_array_equal(batch.inputs, values)


def test_without_permutation_labels_are_the_classes_themselves():
    data, classes = _self_naming()
    sampler = FewShot(data, ways=6, shots=1, queries=3, permute_labels=False)
    support, support_labels, query, query_labels = _draw(sampler, 50)
    np.testing.assert_array_equal(classes[support], support_labels)
    np.testing.assert_array_equal(classes[query], query_labels)
    assert len(np.unique(support)) > 6  # The examples still vary.


@pytest.mark.parametrize("count, num", [(5, 3), (4, 4), (6, 1)])
def test_distinct_draws_every_ordered_choice_equally_often(count, num):
    keys = jax.random.split(jax.random.key(count), 6000)
    draw = jax.jit(jax.vmap(lambda key, n: distinct(key, n, num), (0, None)))
    drawn = [tuple(choice) for choice in np.asarray(draw(keys, count)).tolist()]
    choices = list(itertools.permutations(range(count), num))
    tally = collections.Counter(drawn)
    assert set(tally) == set(choices)
    _assert_uniform(list(tally.values()), 6000 / len(choices))


def test_distinct_takes_a_count_per_draw_and_never_exceeds_it():
    keys = jax.random.split(jax.random.key(0), 2000)
    counts = 4 + jnp.arange(2000) % 97
    drawn = jax.jit(jax.vmap(lambda key, n: distinct(key, n, 4)))(keys, counts)
    assert drawn.dtype == jnp.int32 and drawn.min() == 0
    assert (drawn < counts[:, None]).all()
    assert (jnp.diff(jnp.sort(drawn)) > 0).all()


def test_distinct_reaches_all_of_a_large_range():
    drawn = np.asarray(distinct(jax.random.key(0), 10**9, 200))
    assert len(set(drawn.tolist())) == 200
    quarters = np.bincount(drawn // (10**9 // 4), minlength=4)
    assert len(quarters) == 4
    _assert_uniform(quarters, 50)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ways": 7}, "7-way tasks need 7 classes; the data has 6"),
        ({"queries": 4}, "need 5 examples a class; class '0' has 4"),
        ({"counts": (9, 3, 5), "shots": 2}, "2 shots.*need 5.*class '1' has 3"),
        ({"shots": 0}, "at least 1: got 3, 0, 3"),
        ({"ways": 0}, "at least 1: got 0, 1, 3"),
        ({"queries": 0}, "at least 1: got 3, 1, 0"),
        (
            {"permute_labels": False},
            "every class in every task: set ways=6 instead of 3",
        ),
        ({"groups": "aabbcc"}, "one label for each of 6 classes.*got 1 labels"),
        ({"groups": list("aabbc")}, "each of 6 classes.*got 5 labels"),
        (
            {"groups": list("aabbcc"), "permute_labels": False, "ways": 6},
            "permute_labels be True",
        ),
        (
            {"groups": list("aabbbb"), "ways": 5},
            "need a group of 5 classes; the largest are b 4, a 2",
        ),
    ],
)
def test_a_task_that_the_data_cannot_give_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _sampler(**options)
