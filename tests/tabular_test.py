"""`mj.tabular`: scikit-learn's rules, bounds, and that it learns."""

from pathlib import Path
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import metajax as mj
from metajax import trees
from metajax.tabular import Classifier, Regressor, networks

SIZES = {"width": 8, "layers": 1, "heads": 1}


def saved(path, classes):
    """Initial parameters of a small network, which predicts as ridge regressions do."""
    network = mj.models.table_transformer(classes, **SIZES)
    learner = mj.in_context(mj.models.mlp([], None), network)
    meta = jax.jit(learner.init)(jax.random.key(0), jnp.ones((2, 1)))
    sizes = {"classes": classes or 0} | SIZES
    trees.save(path, meta, {name: str(size) for name, size in sizes.items()})
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """Estimators at their defaults take small networks here, which compile quickly."""
    where = tmp_path_factory.mktemp("tabular")
    found = {name: saved(where / f"{name}.npz", c) for name, c in _NETWORKS.items()}
    shipped = networks.shipped
    networks.shipped = lambda name: networks.read(found[name])
    yield found
    networks.shipped = shipped


_NETWORKS = {"classes": 10, "numbers": None}


@parametrize_with_checks([Classifier(members=2), Regressor()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def two_moons(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    angles, labels = rng.uniform(0, np.pi, rows), np.arange(rows) % 2
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 - 2 * labels[:, None])
    return x + labels[:, None] * [1.0, 0.5] + 0.1 * rng.normal(size=x.shape), labels


def test_it_classifies_what_lines_do_not_part():
    X, y = two_moons()
    names = np.array(["waxing", "waning"])[y]
    found = Classifier().fit(X, names)
    assert (found.predict(X) == names).mean() > 0.9
    np.testing.assert_allclose(found.predict_proba(X).sum(axis=1), 1)
    assert list(found.classes_) == ["waning", "waxing"] and found.n_features_in_ == 2
    assert cross_val_score(clone(found), X, names).mean() > 0.9


def test_it_reaches_what_ridge_regressions_do_on_bundled_sets():
    assert cross_val_score(Classifier(), *load_iris(return_X_y=True)).mean() > 0.93
    X, y = load_diabetes(return_X_y=True)
    found = Regressor().fit(X[:200], y[:200])
    assert found.score(X[200:], y[200:]) > 0.4
    mean, std = found.predict(X[200:230], return_std=True)
    assert mean.shape == std.shape == (30,) and (std > 0).all()


def test_names_of_two_classes_do_not_matter():
    X, y = two_moons()
    first = Classifier().fit(X, y).predict_proba(X[:20])
    second = Classifier().fit(X, 1 - y).predict_proba(X[:20])
    np.testing.assert_allclose(first, second[:, ::-1], atol=1e-5)


def test_tables_of_one_bucket_compile_once():
    X, y = two_moons(64)
    adapt, predict = networks.shipped("classes")[2:]
    Classifier().fit(X[:50], y[:50]).predict(X[:5])
    before = adapt._cache_size(), predict._cache_size()
    Classifier().fit(X[:64], y[:64]).predict(X[:15])
    Classifier().fit(X[:49, :1], y[:49]).predict(X[:9, :1])
    assert (adapt._cache_size(), predict._cache_size()) == before


def test_large_units_and_columns_without_values_do_no_harm():
    X, y = two_moons()
    first = Classifier().fit(X, y).predict_proba(X[:10])
    scaled = X * [1e30, 1e-30] + [1e31, 0]
    found = Classifier().fit(scaled, y).predict_proba(scaled[:10])
    np.testing.assert_allclose(found, first, atol=1e-3)
    wide = np.concatenate([X, np.full((60, 1), np.nan)], axis=1)
    found = Classifier().fit(wide, y).predict_proba(wide[:10])
    np.testing.assert_allclose(found, first, atol=1e-5)


def test_answers_for_many_rows_are_those_for_each():
    X, y = two_moons()
    asked, _ = two_moons(300, seed=2)
    found = Classifier().fit(X, y)
    again = pickle.loads(pickle.dumps(found)).predict_proba(asked)
    one_by_one = np.concatenate([found.predict_proba(asked[i, None]) for i in (0, 299)])
    np.testing.assert_allclose(again[[0, 299]], one_by_one, atol=1e-5)


def bad(rows=40, columns=3, **changes):
    X = np.random.default_rng(0).normal(size=(rows, columns))
    return {"X": X, "y": np.arange(rows) % 2} | changes


@pytest.mark.parametrize(
    "data, words",
    [
        (bad(rows=1100), "at most 1024 rows of 32 columns: got 1100 of 3. Draw some"),
        (bad(columns=40), "got 40 of 40"),
        (bad(y=np.arange(40) % 11), "at most 10 classes apart: got 11"),
        (bad(y=np.zeros(40)), "at least two classes: got 1 class"),
        (bad(y=np.linspace(0, 1, 40)), "continuous"),
        (bad(X=np.full((40, 3), "red")), "could not convert string"),
        (bad(X=np.full((40, 3), np.inf)), "infinity"),
    ],
)
def test_what_it_cannot_take_is_refused_in_a_line(data, words):
    with pytest.raises(ValueError, match=words):
        Classifier().fit(**data)


def test_parameters_for_something_else_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="a network for numbers, and not for classes"):
        Classifier(params=small["numbers"]).fit(**bad())
    np.savez(tmp_path / "other.npz", kernel=np.ones(3))
    with pytest.raises(ValueError, match="has no parameters of a network for tables"):
        Regressor(params=tmp_path / "other.npz").fit(**bad())
    with pytest.raises(ValueError, match="members must be at least 1"):
        Classifier(members=0).fit(**bad())


def test_the_package_brings_parameters_for_both():
    for name, classes in _NETWORKS.items():
        path = Path(networks.__file__).parent / f"{name}.npz"
        assert path.stat().st_size < 2**21
        assert networks.read(path).classes == (classes or 0)


def test_parameters_of_a_run_are_taken(small):
    X, y = two_moons()
    found = Classifier(params=small["classes"]).fit(X, y)
    expected = Classifier().fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(found.predict_proba(X), expected)
