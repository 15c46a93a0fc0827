"""Files that are there whole or not at all, whatever ends the process or the power."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"  # Ends the name of a file that is being written.


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """Writes a file such that there is the old or the new one, and never half of it.

    Once it is left, a loss of power does not undo it.

    Args:
      path: the file, in a directory that is there.

    Yields:
      What to write to.

    Raises:
      OSError: if it cannot be written; then the old one is there.

    Example:
      >>> with whole(path) as file:  # doctest: +SKIP
      ...     numpy.savez(file, x=1)
    """
    path = Path(path)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()  # It would fill what room is left.
        raise
    sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file as `whole` does."""
    with whole(path) as file:
        file.write(text.encode())


def make_directory(path: Path) -> None:
    """Makes a directory, unless it is there, such that a loss of power leaves it there.

    Raises:
      OSError: if it cannot be made, or the one above it is not there.
    """
    if not path.is_dir():
        path.mkdir(exist_ok=True)  # Another process may be as quick.
        sync(path.parent)


def make_directories(path: Path) -> None:
    """Makes a directory, and those above it, as `make_directory` does."""
    for each in reversed((path, *path.parents)):
        make_directory(each)


def sync(path: Path) -> None:
    """Makes what a file holds, or which files a directory has, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
