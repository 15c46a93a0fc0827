"""Checkpoints of a run: one file each, written atomically and checked when read.

A file is an npz, as `numpy.load` reads it, of all leaves by their paths. Its format keeps
a CRC-32 of each leaf, so that a flipped bit is found, and the newest checkpoint that is
whole is used.

Note:
  Not orbax, which meta-parameters of a size that every host holds do not need: it finds
  no flipped bits, takes far longer to save a small state, and has all processes of a run
  save together.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import io
import json
from pathlib import Path
from typing import Any, NamedTuple
import zipfile

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from metajax import files, trees
from metajax.base import PyTree

Fingerprint = Mapping[str, str]  # Settings by name, on which a checkpoint depends.

_ABOUT = "about.json"
_UNFINISHED = (files.UNFINISHED, ".tmp")  # Of saves that were cut off, now and before.


class Checkpoint(NamedTuple):
    """What was saved."""

    step: int
    tree: PyTree
    notes: Any  # JSON.


def save(
    directory: Path,
    step: int,
    tree: PyTree,
    *,
    notes: Any = None,
    fingerprint: Fingerprint | None = None,
    keep: int = 2,
) -> None:
    """Saves a tree as the newest checkpoint; a broken save leaves the older ones whole.

    Checkpoints of later steps, which are there if they were damaged and training went
    back to an earlier one, are removed.

    Args:
      directory: where the checkpoints of one run are, and nothing else; made if absent.
      step: number of this checkpoint.
      tree: arrays, PRNG keys among them.
      notes: what else to keep, as JSON.
      fingerprint: the settings that whoever restores it must have, too.
      keep: how many of the newest checkpoints are kept.

    Raises:
      OSError: if it cannot be written.
    """
    files.make_directories(directory)
    _write(directory, step, _on_host(tree), notes, fingerprint, keep)


class InBackground:
    """Saves while other work goes on, as `save` does; to be used as a context.

    Args:
      directory: where the checkpoints of one run are; made if absent, in one that is
        there, and not again if it is removed.
      fingerprint: as in `save`.
      keep: as in `save`.

    Raises:
      OSError: if it cannot be made.

    Example:
      >>> with InBackground(directory) as checkpoints:  # doctest: +SKIP
      ...     checkpoints.save(step, state)
    """

    def __init__(
        self, directory: Path, *, fingerprint: Fingerprint | None = None, keep: int = 2
    ):
        files.make_directory(directory)
        self._directory, self._settings = directory, (fingerprint, keep)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future | None = None

    def __enter__(self) -> "InBackground":
        return self

    def __exit__(self, *error) -> None:
        self._thread.shutdown()
        if error[0] is None:
            self.check(wait=True)

    def save(self, step: int, tree: PyTree, notes: Any = None) -> None:
        """Copies the tree and returns, once the save before it has ended.

        Raises:
          OSError: if that failed.
        """
        self.check(wait=True)
        self._last = self._thread.submit(
            _write, self._directory, step, _on_host(tree), notes, *self._settings
        )

    def check(self, wait: bool = False) -> None:
        """Raises what the last save raised, if it has ended, or once it has."""
        if self._last and (wait or self._last.done()):
            self._last.result()


def restore(
    directory: Path, like: PyTree, *, fingerprint: Fingerprint | None = None
) -> Checkpoint | None:
    """Loads the newest checkpoint that is not damaged, with a warning for each that is.

    Args:
      directory: where the checkpoints of one run are.
      like: a tree of the structure, shapes and dtypes that were saved; shapes without
        arrays will do. What is loaded goes to the devices that hold it, however many
        they were that saved it.
      fingerprint: settings that must be those of the checkpoint, which may have been
        saved without some of them.

    Returns:
      The checkpoint, or None if there is none.

    Raises:
      OSError: if a file cannot be read.
      ValueError: if what was saved has other settings, leaves, shapes or dtypes, if no
        checkpoint is whole, or if the directory has other things than checkpoints.
    """
    damaged = []
    for step, path in find(directory):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # Whoever trains has removed it since.
            continue
        try:
            about, arrays = read(io.BytesIO(data))
        except MemoryError:
            raise
        except Exception as error:  # Whatever a flipped bit makes of a zip file.
            reason = str(error).partition("\n")[0] or type(error).__name__
            damaged.append(f"{path} is damaged ({reason})")
            continue
        for each in damaged:
            logging.warning("%s: going on from step %d instead.", each, step)
        _compare_settings(path, about["fingerprint"], fingerprint or {})
        tree = _like(path, arrays, about["dtypes"], like)
        return Checkpoint(step, tree, about["notes"])
    if damaged:
        raise ValueError(
            f"no checkpoint can be read: {'; '.join(damaged)}. Begin anew elsewhere."
        )
    for other in sorted(directory.iterdir()) if directory.exists() else ():
        if other.suffix not in _UNFINISHED:
            raise ValueError(f"{other} is no checkpoint that this version can read.")
    return None


# One file


def _on_host(tree: PyTree) -> dict[str, tuple[str, np.ndarray]]:
    """Copies leaves to the host: path -> dtype, array."""
    leaves = jax.tree.leaves(tree)
    # Copies, since the device may give up what they are copied from.
    arrays = [np.array(_numbers(leaf)) for leaf in leaves]
    dtypes = [str(jnp.result_type(leaf)) for leaf in leaves]
    return dict(zip(trees.leaf_paths(tree), zip(dtypes, arrays)))


def _numbers(leaf: jax.Array) -> jax.Array:
    """The leaf, or what a PRNG key is made of."""
    is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _write(directory, step, leaves, notes, fingerprint, keep) -> None:
    for other in directory.iterdir():
        if other.suffix in _UNFINISHED:
            other.unlink()
    about = {
        "fingerprint": dict(fingerprint or {}),
        "notes": notes,
        "dtypes": {name: dtype for name, (dtype, _) in leaves.items()},
    }
    with files.whole(directory / f"{step}.npz") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_ABOUT, json.dumps(about))
            for name, (_, array) in leaves.items():
                _write_array(archive, name, array)
    later, earlier = [], []
    for other, old in find(directory):
        (later if other > step else earlier).append(old)
    for old in later + earlier[keep:]:
        old.unlink()


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "V":  # What NumPy does not know, such as bfloat16.
        array = array.view(f"u{array.dtype.itemsize}")
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def find(directory: Path) -> list[tuple[int, Path]]:
    """The checkpoints that a directory has, by step and path, the newest first."""
    paths = directory.glob("*.npz")
    steps = [(int(path.stem), path) for path in paths if path.stem.isdecimal()]
    return sorted(steps, reverse=True)


def read(file: Path | io.BytesIO) -> tuple[dict, dict[str, np.ndarray]]:
    """Reads one checkpoint.

    Args:
      file: the file, or what it holds.

    Returns:
      What is known about it, and the arrays by the paths of their leaves.

    Raises:
      Exception: of any kind, if the file is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read(_ABOUT))
        arrays = {}
        for name in about["dtypes"]:
            with archive.open(f"{name}.npy") as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
                member.read()  # To the end, where zipfile compares the CRC-32.
    return about, arrays


def _compare_settings(path: Path, saved: Fingerprint, now: Fingerprint) -> None:
    differing = [name for name in saved if saved[name] != now.get(name, saved[name])]
    if differing:
        changes = [f"{name} was {saved[name]}, is {now[name]}" for name in differing]
        raise ValueError(f"{path} is of other settings: {'; '.join(changes)}.")


def _like(path: Path, arrays: dict, dtypes: dict[str, str], like: PyTree) -> PyTree:
    """The arrays in the structure of `like`, where its leaves are."""
    leaves, structure = jax.tree.flatten(like)
    wanted = dict(zip(trees.leaf_paths(like), leaves))
    if set(arrays) != set(wanted):
        lacking, strange = set(wanted) - set(arrays), set(arrays) - set(wanted)
        raise ValueError(
            f"{path} is of another configuration: it lacks "
            f"{', '.join(sorted(lacking)) or 'nothing'}, and has "
            f"{', '.join(sorted(strange)) or 'nothing'} besides."
        )
    for name, leaf in wanted.items():
        shape = jax.eval_shape(_numbers, leaf).shape
        if dtypes[name] != str(leaf.dtype) or arrays[name].shape != shape:
            raise ValueError(
                f"{path} is of another configuration: {name} is "
                f"{dtypes[name]}{list(arrays[name].shape)} there, and "
                f"{leaf.dtype}{list(shape)} here."
            )
    return structure.unflatten(_place(arrays[n], leaf) for n, leaf in wanted.items())


def _place(array: np.ndarray, like: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(jnp.empty((), like.dtype))
        placed = jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
    else:
        placed = array if array.dtype == like.dtype else array.view(like.dtype)
    return jax.device_put(placed, getattr(like, "sharding", None))
