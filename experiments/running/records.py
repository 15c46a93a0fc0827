"""What a run writes while it trains: the lines of its logs, and its checkpoints."""

from collections.abc import Sequence
import contextlib

from experiments.running import workdirs
from experiments.running.locks import Lock
from experiments.running.options import Options
from experiments.running.preparing import Progress
from metajax import checkpoints, files, logs
from metajax.checkpoints import Fingerprint


class Records(contextlib.ExitStack):
    """The log of each seed and the checkpoints of all; to be used as a context.

    Before each line and each checkpoint it makes sure that the directory is the run's
    own still; and before a checkpoint, that the lines which it follows are on the disk.

    Args:
      options: of the run.
      lock: that of its directory.
      fingerprint: what checkpoints depend on.
      step: that of the last line to keep, as in `logs.MetricLog`.
      logged: steps of the lines that were written before.

    Raises:
      OSError: if the directory cannot be written.
    """

    def __init__(
        self,
        options: Options,
        lock: Lock,
        fingerprint: Fingerprint,
        step: int,
        logged: Sequence[int],
    ):
        super().__init__()
        self._lock, self._logged = lock, [*logged]
        directories = workdirs.of_seeds(options)
        for directory in directories:
            if directory != options.workdir:  # Which is not made again.
                files.make_directory(directory)
        self._saver = self.enter_context(
            checkpoints.InBackground(
                options.workdir / "checkpoints",
                fingerprint=fingerprint,
                keep=options.keep_checkpoints,
            )
        )
        self._logs = [
            self.enter_context(logs.MetricLog(directory, step, logged))
            for directory in directories
        ]

    def write(self, step: int, lines: list[dict[str, float]]) -> None:
        """Writes a line for each seed.

        Raises:
          OSError: if it cannot be written.
          locks.Lost: if the directory is no longer the run's own.
        """
        self._lock.make_sure()
        for log, line in zip(self._logs, lines):
            log.write(step, line)
        self._logged.append(step)

    def save(self, step: int, progress: Progress, since: dict) -> None:
        """Saves a checkpoint in the background.

        Args:
          step: outer steps taken.
          progress: what to save.
          since: what happened since the last line, as JSON.

        Raises:
          OSError: if the one before could not be saved.
          locks.Lost: if the directory is no longer the run's own.
        """
        self._lock.make_sure()
        for log in self._logs:
            log.sync()
        notes = since | {"logged": [*self._logged]}
        self._saver.save(step, progress, notes)

    def check(self, wait: bool = False) -> None:
        """Raises what the last save raised, if it has ended, or once it has."""
        self._saver.check(wait)
