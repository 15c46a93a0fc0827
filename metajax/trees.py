"""The few helpers on pytrees that optax.tree lacks."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
import json
from pathlib import Path
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from metajax import files
from metajax.base import PyTree

# Which leaves: a shell pattern of their paths, several of which one must match, or a
# predicate on a path. The path of `tree["head"]["kernel"]` is "head/kernel".
Paths = str | Sequence[str] | Callable[[str], bool]


def select(condition: jax.Array, if_true: PyTree, if_false: PyTree) -> PyTree:
    """Chooses between two trees of the same structure by one scalar condition.

    Args:
      condition: boolean scalar, may be traced.
      if_true: the tree returned where `condition` holds; PRNG keys may be leaves.
      if_false: the tree returned elsewhere.

    Returns:
      One of the two trees.
    """

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(a), jax.dtypes.prng_key):
            return jnp.where(condition, a, b)
        # By their data: `jax_debug_key_reuse` takes keys to choose among for used ones.
        data = jnp.where(condition, *map(jax.random.key_data, (a, b)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))

    return jax.tree.map(choose, if_true, if_false)


def all_finite(tree: PyTree) -> jax.Array:
    """Whether all numbers of a tree are finite, a boolean scalar."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in leaves]))


def size(tree: PyTree) -> int:
    """The number of scalars in a tree, such as a model's number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def split(tree: PyTree, paths: Paths) -> tuple[PyTree, PyTree]:
    """Splits a tree in two by the paths of its leaves; `merge` is the inverse.

    Args:
      tree: the tree.
      paths: a shell pattern such as "head/*" or "*/kernel", a sequence of patterns, or
        a predicate on a path.

    Returns:
      The leaves that match and those that do not, each in the structure of `tree` with
      None, which counts as no leaf, in the place of the others.

    Raises:
      ValueError: if no leaf matches, or none one of several patterns; the message lists
        the paths there are.

    Example:
      >>> split({"body": 1, "head": 2}, "head")
      ({'body': None, 'head': 2}, {'body': 1, 'head': None})
    """
    leaves, structure = jax.tree.flatten(tree)
    names = leaf_paths(tree)
    # Each pattern for itself, so that a misspelled one among several is noticed.
    for each in [paths] if isinstance(paths, str) or callable(paths) else paths:
        if not any(matches(name, each) for name in names):
            wanted = getattr(each, "__name__", repr(each))  # A predicate by its name.
            raise ValueError(f"Nothing matches {wanted}: there are {', '.join(names)}.")
    chosen = [matches(name, paths) for name in names]
    return tuple(
        structure.unflatten(
            leaf if c == side else None for leaf, c in zip(leaves, chosen)
        )
        for side in (True, False)
    )


def matches(path: str, paths: Paths) -> bool:
    """Whether the path of a leaf is one of those meant."""
    if callable(paths):
        return bool(paths(path))
    return _match(path, [paths] if isinstance(paths, str) else paths) is not None


def leaf_paths(tree: PyTree) -> list[str]:
    """The paths of the leaves of a tree, such as "head/kernel"."""
    flat, _ = jax.tree.flatten_with_path(tree)
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in flat]


def first_match(tree: PyTree, patterns: Sequence[str]) -> PyTree:
    """For each leaf the first of some shell patterns that its path matches.

    Args:
      tree: the tree.
      patterns: shell patterns of paths.

    Returns:
      A tree of patterns.

    Raises:
      ValueError: if a leaf matches none.
    """
    found = {path: _match(path, patterns) for path in leaf_paths(tree)}
    unmatched = [path for path in found if found[path] is None]
    if unmatched:
        raise ValueError(
            f"{', '.join(unmatched)}: none of {', '.join(patterns)} matches; add a "
            "pattern, such as *."
        )
    return jax.tree.structure(tree).unflatten(found.values())


def _match(path: str, patterns: Sequence[str]) -> str | None:
    """The first pattern that a path matches."""
    return next((p for p in patterns if fnmatchcase(path, p)), None)


def merge(first: PyTree, second: PyTree) -> PyTree:
    """Puts together what `split` has taken apart: leaves where the other has None."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None
    )


def map_given(function: Callable, tree: PyTree, other: PyTree) -> PyTree:
    """Maps two trees; where the first has None, as under `adjoints.only`, it stays."""
    return jax.tree.map(
        lambda leaf, rest: None if leaf is None else function(leaf, rest),
        tree,
        other,
        is_leaf=lambda leaf: leaf is None,
    )


# What parameters belong to by name, such as {"normalization": "support"}.
BelongsTo = Mapping[str, str]

_BELONGS_TO = "belongs_to.json"


def save(path: str | Path, tree: PyTree, belongs_to: BelongsTo | None = None) -> None:
    """Writes a tree to an npz file, its leaves by their paths, for `load` or NumPy.

    Args:
      path: the file.
      tree: arrays.
      belongs_to: what the tree is to be used with, for `load` to compare.
    """
    leaves = jax.device_get(jax.tree.leaves(tree))
    with files.whole(path) as whole, zipfile.ZipFile(whole, "w") as archive:
        for name, leaf in zip(leaf_paths(tree), map(np.asarray, leaves)):
            if leaf.dtype.kind == "V":  # What NumPy does not know, such as bfloat16.
                leaf = leaf.astype(np.float32)
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, leaf, allow_pickle=False)
        if belongs_to is not None:
            with archive.open(_BELONGS_TO, "w") as file:  # Without the time of day.
                file.write(json.dumps(dict(belongs_to)).encode())


def load(path: str | Path, like: PyTree, belongs_to: BelongsTo | None = None) -> PyTree:
    """Reads leaves from an npz file, such as those of a pre-trained backbone.

    Args:
      path: a file as `save` writes it: arrays by the paths of leaves.
      like: the tree to fill; leaves that the file does not have stay as they are here.
      belongs_to: what the tree is used with here. Names that only one side has are not
        compared, so that a file of another library can be read.

    Returns:
      A tree like `like`, with its dtypes.

    Raises:
      ValueError: if the file cannot be read, has a leaf that the tree has not, none that
        it has, one of another shape, or one that its dtype cannot hold; or if it belongs
        to something else.

    Example:
      >>> protocol = {"normalization": "support"}
      >>> save("body.npz", state.meta, protocol)  # doctest: +SKIP
      >>> meta = load("body.npz", state.meta, protocol)  # doctest: +SKIP
    """
    found, saved_for = _read(path)
    _check_belongs(path, saved_for, belongs_to or {})
    leaves, structure = jax.tree.flatten(like)
    wanted = dict(zip(leaf_paths(like), leaves))
    strange = sorted(set(found) - set(wanted))
    if strange or (wanted and not found):
        raise ValueError(
            f"{path} has {', '.join(strange) or 'no array'}, but the parameters are "
            f"{', '.join(wanted)}: rename or leave out what does not belong."
        )
    for name, leaf in found.items():
        wanted[name] = _as(f"{path} has {name}", leaf, wanted[name])
    return structure.unflatten(wanted.values())


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], BelongsTo]:
    """The arrays of a file, and what they belong to."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not there, or not an npz file of parameters.")
    try:
        with np.load(path) as file:
            found = dict(file)
        return found, json.loads(found.pop(_BELONGS_TO, b"{}"))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _check_belongs(path: str | Path, saved: BelongsTo, here: BelongsTo) -> None:
    for name in sorted(set(saved) & set(here)):
        if saved[name] != here[name]:
            raise ValueError(
                f"{path} belongs to {name}={saved[name]}, but here it is {here[name]}: "
                f"use it with {name}={saved[name]}, or parameters made for {here[name]}."
            )


def _as(which: str, leaf: np.ndarray, like: jax.Array) -> jax.Array:
    """A leaf in another's dtype, if it holds it: floats are rounded, others kept."""
    if leaf.shape != like.shape:
        raise ValueError(f"{which} of shape {leaf.shape}, but it must be {like.shape}.")
    dtype = jnp.result_type(like)
    floats = [jnp.issubdtype(each, jnp.inexact) for each in (leaf.dtype, dtype)]
    converted = leaf.astype(dtype)
    if floats[0] != floats[1] or not (floats[0] or np.array_equal(converted, leaf)):
        raise ValueError(f"{which} of {leaf.dtype}, which {dtype} cannot hold.")
    return jnp.asarray(converted)
