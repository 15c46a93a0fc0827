"""What a run writes down: metrics.jsonl, TensorBoard events, a progress bar."""

import functools
import json
import math
import os
from pathlib import Path
import sys

from absl import logging
from tqdm import tqdm


class MetricLog:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events in a directory.

    Args:
      workdir: an existing directory.
      step: that of the last line to keep; later ones, from a run that was cut off, are
        dropped.
    """

    def __init__(self, workdir: Path, step: int):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        rewritten = self.path.with_suffix(".rewritten")
        rewritten.write_text("".join(map(_to_line, kept)))
        os.replace(rewritten, self.path)
        self._purge_step = step + 1 if step else None

    @functools.cached_property
    def _events(self):
        from tensorboardX import SummaryWriter  # Takes long to import.

        directory = str(self.path.parent)
        return SummaryWriter(directory, purge_step=self._purge_step, flush_secs=30)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line, `{"step": step, **metrics}`; what is not finite is null."""
        metrics = {name: float(value) for name, value in metrics.items()}
        with self.path.open("a") as file:
            file.write(_to_line({"step": step, **metrics}))
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *error) -> None:
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, but for a last one that was cut off."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _to_line(metrics: dict[str, float]) -> str:
    def finite(value):
        return value if value is not None and math.isfinite(value) else None

    return json.dumps({k: finite(v) for k, v in metrics.items()}) + "\n"


def progress_bar(num_steps: int, start: int = 0) -> tqdm:
    """A bar over outer steps on a terminal, with absl's log lines kept above it.

    Args:
      num_steps: outer steps in all.
      start: those already taken.

    Returns:
      A `tqdm` bar; silent where standard error is not a terminal.
    """
    bar = tqdm(total=num_steps, initial=start, unit="step", disable=None)
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
