"""Checkpoints of a run: whole trees of arrays, written atomically by orbax."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp

from metajax.base import PyTree


def save(directory: Path, step: int, tree: PyTree, *, keep: int = 2) -> None:
    """Saves a tree as the newest checkpoint; a broken save leaves the older ones whole.

    Args:
      directory: where the checkpoints of one run are.
      step: number of this checkpoint; if it or a later one is there, nothing is saved.
      tree: arrays, PRNG keys among them.
      keep: how many of the newest checkpoints are kept.
    """
    ocp = _orbax()
    latest = ocp.training.preservation_policies.LatestN(keep)
    with ocp.training.Checkpointer(
        directory.absolute(), preservation_policy=latest, cleanup_tmp_directories=True
    ) as checkpointer:
        if checkpointer.latest is None or checkpointer.latest.step < step:
            checkpointer.save(step, tree, force=True)


@contextlib.contextmanager
def background(directory: Path) -> Iterator[Callable[[int, PyTree], None]]:
    """Saves while other work goes on, as `save` does.

    Args:
      directory: where the checkpoints of one run are.

    Yields:
      `save(step, tree)`, which copies the tree and returns. It first waits for the save
      before it, as the end of the context waits for the last, and raises what that
      raised.
    """
    last = None

    def begin(step: int, tree: PyTree) -> None:
        nonlocal last
        if last:
            last.result()
        # What is saved may be given up to other work in the meantime.
        copied = jax.tree.map(jnp.copy, tree)
        last = thread.submit(save, directory, step, copied)

    with ThreadPoolExecutor(max_workers=1) as thread:
        yield begin
        if last:
            last.result()


def restore(directory: Path, like: PyTree) -> PyTree | None:
    """Loads the newest checkpoint.

    Args:
      directory: where the checkpoints of one run are.
      like: a tree of the structure, shapes and dtypes that were saved; shapes without
        arrays will do. What is loaded goes to the devices that hold it.

    Returns:
      The tree, or None if there is no checkpoint.

    Raises:
      ValueError: if what was saved has another structure or other shapes.
    """
    if not directory.exists():
        return None
    ocp = _orbax()
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def shape(leaf):
        sharding = getattr(leaf, "sharding", None) or one_device
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    abstract = jax.tree.map(shape, like)
    with ocp.training.Checkpointer(directory.absolute()) as checkpointer:
        if checkpointer.latest is None:
            return None
        try:
            return checkpointer.load(checkpointer.latest.step, abstract)
        except Exception as error:  # orbax hides the reason in the cause.
            raise ValueError(
                f"The checkpoint {checkpointer.latest.step} in {directory} cannot be "
                f"loaded into this configuration: {error.__cause__ or error}"
            ) from error


def _orbax():
    """Orbax's interface: imported where it is needed, since that takes a while."""
    from orbax.checkpoint import v1

    return v1
