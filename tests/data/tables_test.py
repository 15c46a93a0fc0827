"""Drawn tables: of all sizes, finite, and worth learning from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.draws import count, drawn
from metajax.data.tables import Tables

TABLES = Tables(
    features=5, classes=4, shots=24, queries=8, fewest_shots=10, missing=0.5
)


@pytest.fixture(scope="module")
def many():
    draw = jax.jit(lambda key: mj.draw_tasks(key, TABLES, jnp.arange(200)))
    return jax.device_get(draw(jax.random.key(0)))


def test_tables_are_valid_and_of_all_sizes(many):
    support, query = many
    inputs = np.concatenate([support.inputs, query.inputs], axis=1)
    assert not np.isinf(inputs).any() and np.nanmax(np.abs(inputs)) < 1e4
    rows = support.mask.sum(axis=1)
    assert rows.min() == 10 and rows.max() == 24
    columns = (~np.isnan(query.inputs)).any(axis=1)
    assert set(columns.sum(axis=1)) == {1, 2, 3, 4, 5}
    # Columns that are there come first.
    assert (np.diff(columns.astype(int), axis=1) <= 0).all()
    number = [len(np.unique(y[m])) for y, m in zip(support.targets, support.mask)]
    assert {2, 3, 4} <= set(number) and np.mean(np.array(number) == 2) > 0.3
    assert support.targets.min() == 0 and support.targets.max() < 4
    assert not support.inputs[~support.mask].any()


def test_queries_ask_for_classes_that_are_shown(many):
    support, query = many
    mj.data.check_support(mj.Task(*map(mj.Batch._make, many)))
    for y, m, asked, real in zip(
        support.targets, support.mask, query.targets, query.mask
    ):
        np.testing.assert_array_equal(real, np.isin(asked, y[m]))


def test_some_tables_have_missing_values_categories_and_shares(many):
    support, query = many
    present = ~np.isnan(query.inputs).all(axis=1)
    holes = np.isnan(query.inputs) & present[:, None]
    assert 0.02 < holes.mean() < 0.3
    levels = [len(np.unique(column)) for table in support.inputs for column in table.T]
    assert np.mean(np.array(levels) < 10) > 0.1
    shares = [np.bincount(y[m]).max() / m.sum() for y, m in zip(*support[1:])]
    assert min(shares) < 0.5 < 0.75 < max(shares)


def test_labels_can_be_learned_and_their_names_mean_nothing(many):
    """The class of the nearest row is right more often than the commonest class."""
    support, query = many
    near = common = 0
    for x, y, m, asked, labels, real in zip(*support, *query):
        x, y, asked = np.nan_to_num(x[m]), y[m], np.nan_to_num(asked)
        spread = x.std(axis=0) + 1e-6
        distances = np.square((asked[:, None] - x[None]) / spread).sum(axis=2)
        near += np.sum((y[distances.argmin(axis=1)] == labels) & real)
        common += np.sum((np.bincount(y).argmax() == labels) & real)
    assert near > 1.1 * common
    counts = [np.bincount(y[m], minlength=4) for y, m in zip(*support[1:])]
    two = np.array([c[:2] for c in counts if not c[2:].any()])
    assert 0.4 < np.mean(two[:, 0] > two[:, 1]) < 0.6


def test_numbers_are_finite_and_differ():
    tables = Tables(features=3, classes=None, shots=12, queries=4)
    draw = jax.jit(lambda key: mj.draw_tasks(key, tables, jnp.arange(50)))
    support, query = draw(jax.random.key(0))
    assert support.targets.shape == (50, 12, 1) and query.targets.shape == (50, 4, 1)
    assert jnp.isfinite(support.targets).all() and query.mask.all()
    assert jnp.std(support.targets, axis=1).min() > 0


def test_a_task_is_a_function_of_its_key_in_strict_modes():
    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(TABLES, jax.random.key(0))


def test_draws_are_of_the_distributions_asked_for():
    def make(draws):
        return (
            *(draws.normal(4000), draws.integers(2, 5, 4000)),
            *(draws.order(5, 300), draws.uniform(4000, low=-1, high=3)),
        )

    assert count(make) == 4000 * 3 + 1500
    normal, integers, orders, uniform = drawn(jax.random.key(0), make)
    assert abs(normal.mean()) < 0.06 and abs(normal.std() - 1) < 0.05
    np.testing.assert_allclose(np.bincount(integers)[2:], 4000 / 3, rtol=0.1)
    assert (np.sort(orders, axis=0) == np.arange(5)[:, None]).all()
    assert abs(uniform.mean() - 1) < 0.1 and uniform.min() >= -1 and uniform.max() <= 3


@pytest.mark.parametrize(
    "change",
    [
        {"features": 0},
        {"classes": 1},
        {"fewest_shots": 25},
        {"missing": 2},
        {"width": 1},
    ],
)
def test_sizes_that_are_none_are_refused(change):
    sizes = {"features": 2, "classes": 2, "shots": 20, "queries": 4} | change
    with pytest.raises(ValueError, match="Tables: "):
        Tables(**sizes)
