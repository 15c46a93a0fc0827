"""What a run's start takes, and the cache of compiled programs that shortens it."""

import hashlib
import os
from pathlib import Path
import platform
from stat import S_IWGRP, S_IWOTH
import time

from absl import logging
import jax

_TRACING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration")
_COMPILING = "backend_compile_duration"
_CACHE_BYTES = 1 << 30

Span = tuple[float, float]


def use_cache(directory: str | None) -> None:
    """Keeps compiled programs on disk, for later starts with the same programs.

    A directory that cannot be used is a reason for a warning, not for stopping; so is
    one into which others may put programs, since whatever is there is run. What was
    compiled for one processor may not run on another, so that each kind has a directory
    of its own, should they share a home.

    Args:
      directory: where to, or "none"; None takes JAX's own setting, or else
        `$XDG_CACHE_HOME/metajax/compiled`.
    """
    if directory == "none":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    own = jax.config.jax_compilation_cache_dir
    if own and not directory:
        if _is_open_to_others(Path(own)):
            jax.config.update("jax_enable_compilation_cache", False)
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path = (
        Path(directory or caches / "metajax" / "compiled").expanduser() / _processor()
    )
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_open_to_others(path):
            return
        (path / "writable").touch()
        _trim(path, _CACHE_BYTES)
    except OSError as error:
        logging.warning("Compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Small programs too: a start compiles dozens, and their number is what takes time.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _is_open_to_others(directory: Path) -> bool:
    """Whether others own a directory or may write it, with a warning if so."""
    if not directory.exists():  # Or it is no local one, which JAX knows to open.
        return False
    found = directory.stat()
    is_open = found.st_uid != os.geteuid() or bool(found.st_mode & (S_IWGRP | S_IWOTH))
    if is_open:
        logging.warning(
            "Compiled programs are neither taken from %s nor kept there, since others "
            "own it or may write it: make it yours alone (chmod go-w), or choose another "
            "--compilation_cache.",
            directory,
        )
    return is_open


def _processor() -> str:
    """A digest of what the processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        abilities = [line for line in lines if line.startswith(("flags", "Features"))]
    except OSError:
        abilities = [platform.processor()]
    text = f"{platform.machine()} {abilities[:1]}"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _trim(directory: Path, num_bytes: int) -> None:
    """Removes the oldest files of a directory until it holds no more than so many bytes."""
    files = [(path.stat(), path) for path in directory.iterdir() if path.is_file()]
    files.sort(key=lambda file: file[0].st_mtime, reverse=True)
    for stat, path in files:
        num_bytes -= stat.st_size
        if num_bytes < 0:
            path.unlink(missing_ok=True)


def num_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Clock:
    """Tells where the time from the command to the first outer step went.

    Args:
      started: when the command began, by `time.time`.
    """

    def __init__(self, started: float):
        self.runs = True
        self._started, self._imported = started, time.time()
        self._spans: list[tuple[str, Span]] = []
        self._events: list[str] = []
        jax.monitoring.register_event_time_span_listener(self._add_span)
        jax.monitoring.register_event_listener(self._add_event)

    def _add_span(self, event: str, start: float, end: float, **_) -> None:
        self._spans.append((event.rpartition("/")[2], (start, end)))

    def _add_event(self, event: str, **_) -> None:
        self._events.append(event.rpartition("/")[2])

    def stop(self, seconds: float, num_steps: int) -> str:
        """Stops listening, and says in one line what the start took.

        Args:
          seconds: what the first outer steps took, which have just ended.
          num_steps: how many they were.

        Returns:
          The time to the end of the first step, and of what it is the sum.
        """
        ready = time.time() - seconds
        self.runs = False
        jax.monitoring.unregister_event_time_span_listener(self._add_span)
        jax.monitoring.unregister_event_listener(self._add_event)
        compiling = [span for event, span in self._spans if event == _COMPILING]
        tracing = [span for event, span in self._spans if event in _TRACING]
        compile_seconds = _covered(compiling)
        trace_seconds = _covered(compiling + tracing) - compile_seconds
        import_seconds = self._imported - self._started
        rest = ready - self._imported - trace_seconds - compile_seconds
        return (
            f"first step after {ready - self._started + seconds / num_steps:.1f} s: "
            f"imports {import_seconds:.1f}, building {rest:.1f}, "
            f"tracing {trace_seconds:.1f}, compiling {compile_seconds:.1f} "
            f"({self._events.count('cache_hits')} of {len(compiling)} programs from the "
            f"cache), running {seconds / num_steps:.1f}"
        )


def _covered(spans: list[Span]) -> float:
    """The length of the union of spans: they may lie within one another."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
