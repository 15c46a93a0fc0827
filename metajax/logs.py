"""What a run writes down: metrics.jsonl, TensorBoard events, a progress bar."""

from collections.abc import Collection
import functools
import json
import math
import os
from pathlib import Path
import sys
import time

from absl import logging
from tqdm import tqdm

from metajax import files


class MetricLog:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events in a directory.

    Args:
      workdir: an existing directory.
      step: that of the last line to keep; later ones, from a run that was cut off, are
        dropped.
      logged: steps of the lines that were written before; a warning names those that
        are not there any more.
    """

    def __init__(self, workdir: Path, step: int, logged: Collection[int] = ()):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        missing = sorted(set(logged) - {line["step"] for line in kept})
        if missing:
            logging.warning(
                "%s lacks the lines of steps %s, which were written before: curves are "
                "drawn without them.",
                self.path,
                _listed(missing),
            )
        text = "".join(map(_to_line, kept))
        if not self.path.exists() or self.path.read_bytes() != text.encode():
            files.write_text(self.path, text)
        # Kept open: should another file take its place, that is not this run's.
        self._file = self.path.open("a")
        self._purge_step = step + 1 if step else None

    @functools.cached_property
    def _events(self):
        # Not SummaryWriter: its thread ends on a full disk, and whoever writes then waits
        # for ever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        writer = EventsWriter(str(self.path.parent / "events"))
        if self._purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            writer.write_event(Event(step=self._purge_step, session_log=start))
        return writer

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line, `{"step": step, **metrics}`; what is not finite is null."""
        metrics = {name: float(value) for name, value in metrics.items()}
        self._file.write(_to_line({"step": step, **metrics}))
        self._file.flush()
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        values = [Summary.Value(tag=k, simple_value=v) for k, v in metrics.items()]
        summary = Summary(value=values)
        event = Event(step=step, wall_time=time.time(), summary=summary)
        self._events.write_event(event)
        self._events.flush()

    def sync(self) -> None:
        """Makes what was written survive a loss of power, as each event does."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()
        if "_events" in self.__dict__:
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, but for a last one that was cut off.

    Damaged ones are left out, with a warning that names them.
    """
    if not path.exists():
        return []
    *lines, last = path.read_text(errors="replace").split("\n")
    found = [_from_line(line) for line in lines]
    damaged = [number for number, line in enumerate(found, 1) if line is None]
    if damaged:
        logging.warning(
            "%s is damaged and read without its lines %s.", path, _listed(damaged)
        )
    return [line for line in [*found, _from_line(last)] if line is not None]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + ", ..." * (len(numbers) > 10)


def _from_line(text: str) -> dict[str, float] | None:
    """The metrics of a line, or None if it is damaged."""
    try:
        metrics = json.loads(text)
    except ValueError:
        return None
    is_whole = isinstance(metrics, dict) and isinstance(metrics.get("step"), int)
    return metrics if is_whole else None


def _to_line(metrics: dict[str, float]) -> str:
    def finite(value):
        return value if value is not None and math.isfinite(value) else None

    return json.dumps({k: finite(v) for k, v in metrics.items()}) + "\n"


def progress_bar(total: int, start: int = 0, *, unit: str = "step") -> tqdm:
    """A bar on a terminal, with absl's log lines kept above it.

    Args:
      total: how many outer steps, or whatever the unit is, there are in all.
      start: those already taken.
      unit: what is counted.

    Returns:
      A `tqdm` bar; silent where standard error is not a terminal.
    """
    bar = tqdm(total=total, initial=start, unit=unit, disable=None)
    logging.get_absl_handler().python_handler.stream = _AboveBar(bar)
    return bar


class _AboveBar:
    """A stream that prints lines above a progress bar."""

    def __init__(self, bar: tqdm):
        self._bar = bar

    def write(self, message: str) -> None:
        self._bar.write(message, end="", file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()

    def close(self) -> None:
        self._bar.close()
