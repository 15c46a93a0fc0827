"""Trees are taken apart by the paths of their leaves, and put together again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import trees

TREE = {"body": {"bias": 1, "kernel": 2}, "head": [3, (4, 5)]}
PATHS = ["body/bias", "body/kernel", "head/0", "head/1/0", "head/1/1"]


def test_paths_are_those_of_the_leaves_in_their_order():
    assert trees.leaf_paths(TREE) == PATHS
    assert jax.tree.leaves(TREE) == [1, 2, 3, 4, 5]
    assert trees.leaf_paths({"a": None, "b": 0}) == ["b"]  # None is no leaf.


@pytest.mark.parametrize(
    "paths, chosen",
    [
        ("head/*", [3, 4, 5]),
        ("*/kernel", [2]),
        ("*", [1, 2, 3, 4, 5]),
        (["head/1/*", "body/bias"], [1, 4, 5]),
        (("*/bias", "*ias"), [1]),
        (lambda path: path.count("/") == 2, [4, 5]),
        (lambda path: path.find("kernel") + 1, [2]),  # Truth will do for a boolean.
    ],
)
def test_split_chooses_by_pattern_patterns_or_predicate_and_merge_inverts_it(
    paths, chosen
):
    some, others = trees.split(TREE, paths)
    assert jax.tree.leaves(some) == chosen
    assert sorted(chosen + jax.tree.leaves(others)) == [1, 2, 3, 4, 5]
    for merged in (trees.merge(some, others), trees.merge(others, some)):
        assert merged == TREE


def test_split_keeps_the_structure_with_none_for_what_is_on_the_other_side():
    some, others = trees.split(TREE, ["body/bias", "head/1/1"])
    assert some == {"body": {"bias": 1, "kernel": None}, "head": [None, (None, 5)]}
    assert others == {"body": {"bias": None, "kernel": 2}, "head": [3, (4, None)]}


def test_split_refuses_what_matches_nothing_and_lists_what_there_is():
    def is_tail(path):
        return path == "tail"

    for paths, name in (
        ("tail", "'tail'"),
        (["head/*", "feet"], "'feet'"),
        (is_tail, "is_"),
    ):
        with pytest.raises(ValueError, match=rf"matches .*{name}.*there are body/bias"):
            trees.split(TREE, paths)


def test_first_match_gives_each_leaf_the_first_pattern_it_matches():
    found = trees.first_match(TREE, ["*/1/1", "head/*", "*"])
    assert found == {
        "body": {"bias": "*", "kernel": "*"},
        "head": ["head/*", ("head/*", "*/1/1")],
    }
    assert trees.first_match(TREE, ["*", "head/*"])["head"] == ["*", ("*", "*")]


def test_first_match_refuses_leaves_that_match_nothing():
    with pytest.raises(
        ValueError, match="^body/bias, head/0: none of .*/kernel, .*/1/"
    ):
        trees.first_match(TREE, ["*/kernel", "head/1/*"])


def test_select_takes_all_leaves_of_one_tree_keys_among_them():
    keys = jax.random.split(jax.random.key(0))
    first, second = ({"key": key, "x": jnp.full(2, i)} for i, key in enumerate(keys))
    for condition, expected in ((True, first), (False, second)):
        chosen = jax.jit(trees.select)(condition, first, second)
        np.testing.assert_array_equal(chosen["x"], expected["x"])
        assert chosen["key"] == expected["key"]


def test_size_counts_numbers():
    assert trees.size({"a": np.zeros((2, 3)), "b": [np.zeros(4), np.float32(0)]}) == 11


def test_several_patterns_must_each_match():
    with pytest.raises(
        ValueError, match="Nothing matches 'haed': there are body, head"
    ):
        trees.split({"body": 1, "head": 2}, ["head", "haed"])


def test_a_tree_comes_back_from_its_file_with_its_dtypes(tmp_path):
    tree = {
        "file": jnp.arange(3.0),
        "rates": (jnp.float32(0.1), jnp.int32(7)),
        "half": jnp.full(2, 1.5, jnp.bfloat16),
    }
    trees.save(tmp_path / "saved", tree)
    back = trees.load(tmp_path / "saved", jax.tree.map(jnp.zeros_like, tree))
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert jax.tree.map(lambda x: x.dtype, back) == jax.tree.map(
        lambda x: x.dtype, tree
    )


def test_a_file_of_some_leaves_leaves_the_others(tmp_path):
    np.savez(tmp_path / "body.npz", **{"body/kernel": np.ones(2)})
    like = {"body": {"kernel": jnp.zeros(2)}, "head": jnp.full(1, 5.0)}
    loaded = trees.load(tmp_path / "body.npz", like)
    np.testing.assert_array_equal(loaded["body"]["kernel"], [1, 1])
    assert loaded["head"] == 5


@pytest.mark.parametrize(
    "saved, here",
    [
        (np.float32(1.5), np.int32(0)),
        (np.int32(1), np.float32(0)),
        (np.int64(2**40), np.int32(0)),
        (np.int32(-1), np.uint8(0)),
        (np.int32(2), np.bool_(False)),
        (np.bool_(True), np.float32(0)),
    ],
)
def test_a_leaf_that_its_dtype_cannot_hold_is_refused(tmp_path, saved, here):
    path = tmp_path / "x.npz"
    np.savez(path, a=saved)
    message = f"has a of {saved.dtype}, which {here.dtype} cannot hold"
    with pytest.raises(ValueError, match=message):
        trees.load(path, {"a": jnp.asarray(here)})


def test_floats_are_rounded_and_integers_that_fit_are_kept(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.float64(1 / 3), b=np.int64(7), c=np.float32(1 / 3))
    like = {"a": jnp.float32(0), "b": jnp.uint8(0), "c": jnp.bfloat16(0)}
    loaded = trees.load(path, like)
    assert loaded["a"] == np.float32(1 / 3) and loaded["b"] == 7
    assert loaded["c"] == jnp.bfloat16(1 / 3)
    assert jax.tree.map(lambda x: x.dtype, loaded) == jax.tree.map(
        lambda x: x.dtype, like
    )


def test_parameters_are_refused_where_they_do_not_belong(tmp_path):
    path, tree = tmp_path / "saved.npz", {"a": jnp.ones(2)}
    trees.save(path, tree, {"normalization": "support", "ways": "5"})
    for here in (None, {}, {"normalization": "support"}, {"width": "64"}):
        np.testing.assert_array_equal(trees.load(path, tree, here)["a"], [1, 1])
    message = "saved.npz belongs to normalization=support, but here it is layer: use"
    with pytest.raises(ValueError, match=message):
        trees.load(path, tree, {"normalization": "layer", "ways": "5"})
    with np.load(path) as file:
        np.testing.assert_array_equal(file["a"], [1, 1])


def test_files_that_belong_to_nothing_said_can_be_used_anywhere(tmp_path):
    path, tree = tmp_path / "saved.npz", {"a": jnp.ones(2)}
    for write in (trees.save, lambda path, tree: np.savez(path, **tree)):
        write(path, tree)
        loaded = trees.load(path, tree, {"normalization": "layer"})
        np.testing.assert_array_equal(loaded["a"], [1, 1])


def test_files_that_do_not_fit_are_named_with_the_reason(tmp_path):
    like = {"body": jnp.zeros(2), "head": jnp.zeros(1)}
    path = tmp_path / "x.npz"
    for content, message in (
        ({"bodi": np.ones(2)}, "has bodi, but the parameters are body, head"),
        ({}, "has no array"),
        ({"body": np.ones(3)}, r"has body of shape \(3,\), but it must be \(2,\)"),
    ):
        np.savez(path, **content)
        with pytest.raises(ValueError, match=message):
            trees.load(path, like)
    np.save(tmp_path / "x.npy", np.ones(2))
    (tmp_path / "empty").write_text("")
    for name in ("x.npy", "empty", "absent"):
        with pytest.raises(ValueError, match="is not there, or not an npz file"):
            trees.load(tmp_path / name, like)
