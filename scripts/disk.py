"""What is on a disk when a process or the power ends, from a journal of operations."""

from collections.abc import Iterable
import os
from pathlib import Path
from typing import Any

from scripts.shim import READS, Operation, Perform

_DIRECTORY = 0  # In the place of a file's number.

# What a loss of power leaves: only what was synced; names too, of files that have
# nothing but what was synced; or files of full length, with zeros for the rest.
LOSSES = ("synced", "named", "zeros")


class Journal(list):
    """A hook of `shim.watched` that notes what is done to files, in order."""

    def __call__(self, operation: Operation, perform: Perform) -> Any:
        result = perform()
        reads = operation.kind in READS
        if not reads or (operation.kind == "read" and operation.handle):
            self.append(operation)
        return result


class Disk:
    """Files as a process sees them, and as they are if the power goes."""

    def __init__(self):
        self._numbers = iter(range(1, 1 << 62))
        self._names: dict[str, int] = {".": _DIRECTORY}
        self._contents: dict[int, bytes] = {}
        self._handles: dict[int, int] = {}
        self._synced_names: dict[str, dict[str, int]] = {}  # By directory.
        self._synced: dict[int, bytes] = {}

    @classmethod
    def after(cls, operations: Iterable[Operation]) -> "Disk":
        disk = cls()
        for operation in operations:
            disk.do(operation)
        return disk

    def do(self, operation: Operation) -> None:
        """Does what a process has done."""
        getattr(self, f"_{operation.kind}")(operation)

    def _open(self, operation: Operation) -> None:
        number = self._names.get(operation.path)
        if number is None:
            number = self._names[operation.path] = next(self._numbers)
            self._contents[number] = b""
        if operation.where == 0:
            self._contents[number] = b""
        self._handles[operation.handle] = number

    def _read(self, operation: Operation) -> None:
        self._handles[operation.handle] = self._names[operation.path]

    def _write(self, operation: Operation) -> None:
        number, start = self._handles[operation.handle], operation.where
        held, end = self._contents[number], start + len(operation.data)
        held = held.ljust(start, b"\0")
        self._contents[number] = held[:start] + operation.data + held[end:]

    def _truncate(self, operation: Operation) -> None:
        number, size = self._handles[operation.handle], operation.where
        self._contents[number] = self._contents[number][:size].ljust(size, b"\0")

    def _sync(self, operation: Operation) -> None:
        number = self._handles[operation.handle]
        if number == _DIRECTORY:
            self._synced_names[operation.path] = self._within(operation.path)
        else:
            self._synced[number] = self._contents[number]

    def _replace(self, operation: Operation) -> None:
        self._names[operation.target] = self._names.pop(operation.path)

    def _unlink(self, operation: Operation) -> None:
        del self._names[operation.path]

    def _mkdir(self, operation: Operation) -> None:
        self._names[operation.path] = _DIRECTORY

    def _within(self, directory: str) -> dict[str, int]:
        return {
            path: number
            for path, number in self._names.items()
            if path != "." and (os.path.dirname(path) or ".") == directory
        }

    def files(self, loss: str | None = None) -> dict[str, bytes | None]:
        """What files hold by path, None for a directory.

        Args:
          loss: what a loss of power leaves; all that was done, if None.
        """
        found: dict[str, bytes | None] = {}
        directories = ["."]
        while directories:
            directory = directories.pop()
            names = self._within(directory)
            if loss == "synced":
                names = self._synced_names.get(directory, {})
            for path, number in names.items():
                if number == _DIRECTORY:
                    directories.append(path)
                    found[path] = None
                else:
                    found[path] = self._held(number, loss)
        return found

    def _held(self, number: int, loss: str | None) -> bytes:
        if loss is None:
            return self._contents[number]
        synced = self._synced.get(number, b"")
        if loss == "zeros":
            return synced.ljust(len(self._contents[number]), b"\0")
        return synced


def write(files: dict[str, bytes | None], root: Path) -> None:
    """Makes files below a directory."""
    for path, held in sorted(files.items()):
        if held is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(held)
