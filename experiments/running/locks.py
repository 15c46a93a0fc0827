"""Whose directory it is: no other process may write it, nor this one another's."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
from pathlib import Path
import platform

from absl import logging

NAME = "lock"


class Unwritable(OSError):
    """What a run owns cannot be written: its configuration is not at fault."""


class Lost(Exception):
    """The directory of a run is no longer its own: what to say of it."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Within it an error of the file system is of writing what the run owns."""
    try:
        yield
    except OSError as error:
        raise Unwritable(error.errno, error.strerror, error.filename) from error


class Lock:
    """Keeps other processes from a directory until this one ends, however it does.

    Args:
      workdir: the directory.
      held: lets go of the lock.

    Raises:
      ValueError: if another process is at it.
      Unwritable: if it cannot be written.
    """

    def __init__(self, workdir: Path, held: contextlib.ExitStack):
        self._workdir = workdir
        with writing():
            self._file = os.open(workdir / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        held.callback(os.close, self._file)
        holder = os.read(self._file, 1000).decode(errors="replace").strip()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{workdir} is in use by {holder or 'another process'}: wait for it, "
                "stop it, or choose another --workdir."
            ) from error
        except OSError as error:  # Such as of a network's file system.
            logging.warning("%s cannot be locked: %s.", workdir, error.strerror)
            return
        if holder:
            logging.warning("%s was left by %s, which has ended.", workdir, holder)
        self._sign(f"process {os.getpid()} on {platform.node()}\n")
        held.callback(self._sign, "")

    def _sign(self, holder: str) -> None:
        """Writes who holds it, which is but a courtesy."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, holder.encode(), 0)

    def make_sure(self) -> None:
        """Makes sure that the directory is still the one that was locked.

        Raises:
          Lost: if it is not.
          OSError: if that cannot be found out.
        """
        try:
            same = os.path.samestat(os.stat(self._workdir / NAME), os.fstat(self._file))
        except (FileNotFoundError, NotADirectoryError):
            same = False
        if not same:
            raise Lost(
                f"{self._workdir} is no longer the directory that this run has begun in: "
                f"it was moved or removed, or {NAME} in it was. Nothing more is written; "
                "put it back, and the same command goes on from its last checkpoint."
            )
