"""Stands between a process and what it does to the files below one directory.

From outside: nothing of this is in the code that is tried.
"""

import builtins
from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
from functools import partial
import io
import os
from pathlib import Path
import signal
import threading
from typing import Any, NamedTuple

READS = ("read", "stat", "list", "lock")  # They change nothing.


class Operation(NamedTuple):
    """What is about to be done to a file."""

    kind: str
    path: str  # Below the directory that is watched.
    handle: int = 0  # Which opening of the file it is, of those that have one.
    data: bytes = b""  # What is written.
    where: int = 0  # At which byte; to how many, of `truncate`.
    target: str = ""  # Of `replace`.


# Does it, of a write as many bytes as it is given, or not; what it returns is returned.
Perform = Callable[..., Any]
Hook = Callable[[Operation, Perform], Any]


def fail_at(number: int, code: int) -> Hook:
    """Fails one operation, counted from 0, with an error of the file system."""
    count = iter(range(1 << 62))

    def hook(operation: Operation, perform: Perform) -> Any:
        if next(count) == number:
            raise OSError(code, os.strerror(code))
        return perform()

    return hook


def fail_from(number: int, code: int) -> Hook:
    """Fails all that writes, from one operation on, as a full or a lost disk does."""
    count = iter(range(1 << 62))

    def hook(operation: Operation, perform: Perform) -> Any:
        late = next(count) >= number
        makes_room = code == errno.ENOSPC and operation.kind == "unlink"
        if late and operation.kind not in READS and not makes_room:
            raise OSError(code, os.strerror(code))
        return perform()

    return hook


def kill_at(number: int, when: str) -> Hook:
    """Ends the process before, within or after one operation that writes."""
    count = iter(range(1 << 62))

    def hook(operation: Operation, perform: Perform) -> Any:
        if operation.kind in READS or next(count) != number:
            return perform()
        if when == "within" and operation.kind == "write":
            perform(operation.data[: len(operation.data) // 2])
        elif when == "after":
            perform()
        os.kill(os.getpid(), signal.SIGKILL)

    return hook


def meddle_at(number: int, meddle: Callable[[], Any]) -> Hook:
    """Does something before one operation, counted from 0."""
    count = iter(range(1 << 62))

    def hook(operation: Operation, perform: Perform) -> Any:
        if next(count) == number:
            meddle()
        return perform()

    return hook


@contextlib.contextmanager
def watched(root: Path, hook: Hook) -> Iterator[None]:
    """Within it, a hook meets every operation on what is below a directory."""
    shim = _Shim(root, hook)
    before = [(owner, name, getattr(owner, name)) for owner, name in _REPLACED]
    for owner, name, original in before:
        own = getattr(shim, "open_file" if owner in (io, builtins) else name)
        setattr(owner, name, _of(own, original))
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


def _of(own: Callable, original: Callable) -> Callable:
    return lambda *args, **options: own(original, *args, **options)


_REPLACED = [
    *((io, "open"), (builtins, "open"), (fcntl, "flock")),
    *(
        (os, name)
        for name in (
            *("open", "close", "fsync", "ftruncate", "pwrite", "replace", "unlink"),
            *("mkdir", "stat", "listdir", "scandir"),
        )
    ),
]


class _Shim:
    """What takes the place of functions; the first argument is the function itself."""

    def __init__(self, root: Path, hook: Hook):
        self._root, self._hook = os.path.abspath(root), hook
        self._opened: dict[int, tuple[int, str]] = {}  # By descriptor: handle, path.
        self._handles = iter(range(1, 1 << 62))
        self._one_by_one = threading.RLock()

    def below(self, path: Any) -> str | None:
        """A path relative to the root; None of one that is elsewhere."""
        if not isinstance(path, (str, os.PathLike)):
            return None
        full = os.path.abspath(path)
        if full != self._root and not full.startswith(self._root + os.sep):
            return None
        return os.path.relpath(full, self._root)

    def meet(self, operation: Operation, perform: Perform) -> Any:
        with self._one_by_one:
            return self._hook(operation, perform)

    def opened(self, descriptor: int, handle: int, path: str) -> int:
        self._opened[descriptor] = handle, path
        return descriptor

    def forget(self, descriptor: int) -> None:
        self._opened.pop(descriptor, None)

    def next_handle(self) -> int:
        return next(self._handles)

    def open_file(self, original, file, mode="r", buffering=-1, *rest, **options):
        path = self.below(file)
        if path is None:
            return original(file, mode, buffering, *rest, **options)
        if not set(mode) & set("wax+"):
            perform = partial(original, file, mode, buffering, *rest, **options)
            return self.meet(Operation("read", path), perform)
        raw = _Raw(self, file, path, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **options)

    def open(self, original, file, flags, *rest, **options):
        path = self.below(file)
        if path is None:
            return original(file, flags, *rest, **options)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        handle = self.next_handle()
        perform = partial(original, file, flags, *rest, **options)
        where = 0 if flags & os.O_TRUNC else -1
        operation = Operation("open" if writes else "read", path, handle, b"", where)
        return self.opened(self.meet(operation, perform), handle, path)

    def close(self, original, descriptor):
        self.forget(descriptor)
        return original(descriptor)

    def _on_descriptor(self, kind, original, descriptor, *rest, **found):
        def perform(*data):
            return original(descriptor, *data, *rest[len(data) :])

        if descriptor not in self._opened:
            return perform()
        handle, path = self._opened[descriptor]
        return self.meet(Operation(kind, path, handle, **found), perform)

    def fsync(self, original, descriptor):
        descriptor = getattr(descriptor, "fileno", lambda: descriptor)()
        return self._on_descriptor("sync", original, descriptor)

    def flock(self, original, descriptor, how):
        return self._on_descriptor("lock", original, descriptor, how)

    def ftruncate(self, original, descriptor, size):
        return self._on_descriptor("truncate", original, descriptor, size, where=size)

    def pwrite(self, original, descriptor, data, where):
        return self._on_descriptor(
            "write", original, descriptor, data, where, data=data, where=where
        )

    def _on_path(self, kind, original, path, *rest, target="", **options):
        perform = partial(original, path, *rest, **options)
        below = self.below(path)
        if below is None:
            return perform()
        return self.meet(Operation(kind, below, target=target), perform)

    def replace(self, original, source, target):
        return self._on_path(
            "replace",
            lambda path: original(path, target),
            source,
            target=self.below(target),
        )

    def unlink(self, original, path, **options):
        return self._on_path("unlink", original, path, **options)

    def mkdir(self, original, path, *rest, **options):
        return self._on_path("mkdir", original, path, *rest, **options)

    def stat(self, original, path, **options):
        return self._on_path("stat", original, path, **options)

    def listdir(self, original, path=".", **options):
        return self._on_path("list", original, path, **options)

    def scandir(self, original, path=".", **options):
        return self._on_path("list", original, path, **options)


class _Raw(io.FileIO):
    """A file that is written, below all buffers."""

    def __init__(self, shim: _Shim, file, path: str, mode: str):
        self._shim, self._path, self._handle = shim, path, shim.next_handle()
        where = 0 if "w" in mode else -1
        shim.meet(
            Operation("open", path, self._handle, b"", where),
            lambda: super(_Raw, self).__init__(file, mode),
        )
        shim.opened(self.fileno(), self._handle, path)
        self._appends = "a" in mode

    def write(self, data) -> int:
        data = bytes(data)
        where = os.fstat(self.fileno()).st_size if self._appends else self.tell()

        def perform(some=data):
            return super(_Raw, self).write(some)

        operation = Operation("write", self._path, self._handle, data, where)
        return self._shim.meet(operation, perform)

    def close(self) -> None:
        if not self.closed:
            self._shim.forget(self.fileno())
        super().close()
