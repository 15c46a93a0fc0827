"""The network that reads tables: what it must not notice, and what it must."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.base import Batch, Masked
from metajax.models import kernels
from metajax.models.tables import table_transformer

CLASSES, ROWS, COLUMNS = 3, 12, 4


def learner_of(classes):
    network = table_transformer(classes, width=8, layers=2, heads=2)
    return mj.in_context(mj.models.mlp([], None), network)


@partial(jax.jit, static_argnums=0)
def random_meta(learner):
    """Parameters none of which is 0, as trained ones are."""
    meta = learner.init(jax.random.key(0), jnp.ones((2, 1)))
    leaves, structure = jax.tree.flatten(meta)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten(
        [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    )


@pytest.fixture(scope="module")
def answer():
    """`(support, inputs) -> logits`, compiled for each shape once."""
    learner = learner_of(CLASSES)
    meta = random_meta(learner)

    @jax.jit
    def answer(support, inputs):
        adapted = learner.adapt(jax.random.key(0), meta, support)
        return jax.nn.softmax(learner.predict(meta, adapted, inputs))

    return answer


def a_table(seed=0):
    """Rows with ties, a missing value, and labels; and rows to ask for."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(ROWS + 5, COLUMNS)).astype(np.float32)
    inputs[:, 1] = np.round(inputs[:, 1])
    inputs[3, 2] = np.nan
    labels = np.arange(ROWS) % CLASSES
    mask = np.ones(ROWS, bool)
    return Batch(inputs[:ROWS], labels.astype(np.int32), mask), inputs[ROWS:]


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_the_orders_of_rows_and_of_columns_do_not_matter(answer):
    support, asked = a_table()
    rows = np.random.default_rng(1).permutation(ROWS)
    columns = np.random.default_rng(2).permutation(COLUMNS)
    shuffled = Batch(support.inputs[rows], support.targets[rows], support.mask)
    first = answer(support, asked)
    assert_close(answer(shuffled, asked), first)
    turned = support._replace(inputs=support.inputs[:, columns])
    assert_close(answer(turned, asked[:, columns]), first)
    assert_close(answer(support, asked[::-1]), first[::-1])
    assert np.ptp(first, axis=0).max() > 0.01  # Rows do differ.


def test_what_is_masked_is_as_if_absent(answer):
    support, asked = a_table()
    first = answer(support, asked)
    padding = np.full((4, COLUMNS), 7, np.float32)
    padded = Batch(
        np.concatenate([support.inputs, padding]),
        np.concatenate([support.targets, np.zeros(4, np.int32)]),
        np.arange(ROWS + 4) < ROWS,
    )
    assert_close(answer(padded, asked), first)
    # A column without a value, in which rows asked for may have one.
    nothing = np.full((ROWS, 1), np.nan, np.float32)
    wider = support._replace(inputs=np.concatenate([support.inputs, nothing], axis=1))
    more = np.concatenate([asked, np.ones((5, 1), np.float32)], axis=1)
    assert_close(answer(wider, more), first)


def test_units_and_absent_classes_do_not_matter(answer):
    support, asked = a_table()
    first = answer(support, asked)
    scale, shift = np.float32([2, 4, 0.5, 8]), np.float32([1, 2, 3, -4])
    moved = support._replace(inputs=support.inputs * scale + shift)
    assert_close(answer(moved, asked * scale + shift), first)
    two = support._replace(targets=support.targets % 2)
    assert answer(two, asked)[:, 2].max() == 0


def test_a_missing_value_is_none_of_those_that_it_could_be(answer):
    support, asked = a_table()
    column = support.inputs[:, 0]
    found = []
    for value in (np.nan, 0.0, column.mean(), np.median(column)):
        other = asked.copy()
        other[:, 0] = value
        found.append(answer(support, other))
    for each in found[1:]:
        assert np.abs(found[0] - each).max() > 1e-3


def test_one_row_is_answered_as_among_others(answer):
    support, asked = a_table()
    assert_close(answer(support, asked[:1]), answer(support, asked)[:1])
    masked = Masked(asked, np.arange(5) < 3)
    assert_close(answer(support, masked)[:3], answer(support, asked)[:3])


def test_numbers_follow_the_units_of_the_target():
    learner = learner_of(None)
    meta = random_meta(learner)
    support, asked = a_table()
    values = np.random.default_rng(3).normal(size=(ROWS, 1)).astype(np.float32)

    @jax.jit
    def answer(targets):
        shown = support._replace(targets=targets)
        adapted = learner.adapt(jax.random.key(0), meta, shown)
        return learner.predict(meta, adapted, asked)

    mean, std = answer(values)
    far_mean, far_std = answer(4 * values + 3)
    np.testing.assert_allclose(far_mean, 4 * mean + 3, atol=1e-3)
    np.testing.assert_allclose(far_std, 4 * std, rtol=1e-3)
    assert std.min() > 0


def test_ridge_regressions_are_those_of_the_other_rows():
    """Left-out guesses are what fits without a row say of it."""
    support, _ = a_table()
    seen = kernels.view(support.inputs, support.inputs)
    targets = jax.nn.one_hot(support.targets, CLASSES)
    fit = jax.jit(kernels.fit)
    _, guesses = fit(seen, targets, support.mask)
    for row in (0, 3):
        others = jnp.arange(ROWS) != row
        fitted, _ = fit(seen, targets, others)
        expected = kernels.guess(
            fitted._replace(duals=fitted.duals * others[None, :, None]), seen[row, None]
        )
        np.testing.assert_allclose(guesses[:, row], expected[:, 0], atol=1e-4)


@pytest.mark.parametrize("size", [5, 130])
def test_inverses_are_those_of_linalg(size):
    factors = np.random.default_rng(0).normal(size=(2, size, size))
    matrices = factors @ factors.swapaxes(1, 2) + np.eye(size)
    found = kernels.inverse(jnp.asarray(matrices, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.inv(matrices), atol=1e-3)


def test_views_tell_rank_ties_and_what_is_missing():
    known = jnp.array([[1.0, 5.0], [1.0, jnp.nan], [4.0, 7.0]])
    seen = kernels.view(known, jnp.array([[1.0, jnp.nan], [9.0, 6.0]]))
    np.testing.assert_allclose(seen[:, 0, 1], [-1 / 3, 1])
    np.testing.assert_allclose(seen[:, 0, 2], [2 / 3, 0])
    np.testing.assert_array_equal(seen[0, 1], [0, 0, 0, 1])
    np.testing.assert_array_equal(seen[1, 1], [0, 0, 0, 0])  # Right between.


@pytest.mark.parametrize("change", [{"width": 9}, {"layers": 0}, {"classes": 1}])
def test_sizes_that_are_none_are_refused(change):
    sizes = {"classes": 3, "width": 8, "layers": 2, "heads": 2} | change
    with pytest.raises(ValueError, match="table_transformer: "):
        table_transformer(sizes.pop("classes"), **sizes)
