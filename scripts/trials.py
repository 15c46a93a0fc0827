"""Runs within one process, each of which meets one fault, and what became of them."""

from collections.abc import Iterable, Iterator
import contextlib
import functools
import io
import logging as python_logging
from pathlib import Path
import re
import shutil
import sys
import threading
import traceback
from typing import Any, NamedTuple

from absl import logging
from matplotlib.figure import Figure

from experiments import door, running
from experiments.few_shot.door import FLAGS, experiment, settings
from experiments.running import Experiment, pictures
from scripts import faults, shim
from scripts.disk import Disk, Journal, write

# Of each thing that a run does a few, so that each of its operations can be met.
FEW = (
    "--data=sinusoid --hidden=4 --shots=5 --queries=5 --num_tasks=2 --num_steps=4 "
    "--log_every_steps=1 --eval_every_steps=2 --num_validation_tasks=3 "
    "--num_test_tasks=3 --eval_inner_steps=0 --select_inner_steps=0 --num_devices=1 "
    "--platform=cpu --workdir=unused"
).split()
_PNG = b"\x89PNG, had it been drawn"  # Which would take most of the time.


class Counts(NamedTuple):
    """What became of the runs of one kind; but for the first all should be 0."""

    trials: int = 0
    lost: int = 0  # A saved state was not gone on from.
    refused: int = 0  # The same command does not go on, though it should.
    silent: int = 0  # Another result or log, and not a word.
    unsaid: int = 0  # Ended without one line and the exit code for it.
    traces: int = 0  # Stack traces.

    def plus(self, **more: int) -> "Counts":
        more = {name: getattr(self, name) + value for name, value in more.items()}
        return self._replace(**more)


class Start(NamedTuple):
    """What came of a start."""

    code: int | None
    errors: list[str]  # Lines on standard error.
    log: str
    trace: str

    @property
    def step(self) -> int:
        """From which step it went on."""
        found = re.search(r"going on from step (\d+)", self.log)
        return int(found[1]) if found else 0


def some(of_all: Iterable[Any], most: int | None) -> list[Any]:
    """As many of all, spread evenly."""
    of_all = list(of_all)
    if most is None or most >= len(of_all):
        return of_all
    return [of_all[i * len(of_all) // most] for i in range(most)]


class Runs:
    """Starts of one experiment, which is built and compiled but once.

    Args:
      root: where runs are made.
    """

    def __init__(self, root: Path):
        self.root = root
        FLAGS.unparse_flags()
        for name in FLAGS:  # Whatever was parsed before.
            FLAGS[name].unparse()
        FLAGS(["trials", *FEW])
        self._options, self._settings = door.options(FLAGS), settings()
        # Traced but once, and its own pictures are but written.
        whole = experiment()
        self.experiment = whole._replace(
            step=functools.cache(whole.step),
            draw_tasks=_draw_nothing,
            draw=lambda meta, found, directory: _draw_nothing(directory / "own.png"),
        )
        self._number = iter(range(1 << 62))
        self.alone, self.journal = None, None

    def place(self) -> Path:
        """A new directory, below which a run is to be."""
        path = self.root / str(next(self._number))
        path.mkdir()
        return path

    def start(
        self,
        place: Path,
        hook: shim.Hook | None = None,
        experiment: Experiment | None = None,
    ) -> Start:
        """Starts the run of a place, or goes on with it."""
        options = self._options._replace(workdir=place / "run")
        with _heard() as heard, contextlib.ExitStack() as stack:
            if hook is not None:
                stack.enter_context(shim.watched(place, hook))
            code, make = None, lambda: experiment or self.experiment
            try:
                code = running.run(make, options, self._settings)
            except BaseException:
                traceback.print_exc()
        errors = heard.errors.getvalue()
        trace = errors[errors.find("Traceback") :] if "Traceback" in errors else ""
        return Start(code, errors.splitlines(), heard.log.getvalue(), trace)

    def expected(self) -> dict[str, object]:
        """The outcome of a run that is left alone, and its journal."""
        if self.alone is None:
            place, self.journal = self.place(), Journal()
            start = self.start(place, self.journal)
            if start.code != 0:
                raise RuntimeError(f"{start}")
            self.alone = faults.outcome(place / "run")
        return self.alone

    def half_done(self) -> dict[str, bytes | None]:
        """The files of a run that was killed after its first checkpoint."""
        self.expected()
        targets = [operation.target for operation in self.journal]
        saved = targets.index("run/checkpoints/2.npz")
        return Disk.after(self.journal[: saved + 3]).files()

    def operations(self, files: dict[str, bytes | None]) -> list[shim.Operation]:
        """All operations of a start from these files, those that read among them."""
        listed = []

        def note(operation: shim.Operation, perform: shim.Perform) -> Any:
            listed.append(operation)
            return perform()

        self.expected()
        place = self.place()
        write(files, place)
        self.start(place, note)
        shutil.rmtree(place)
        return listed

    def go_on(
        self, place: Path, counts: Counts, about: str, may_lack: bool = False
    ) -> Counts:
        """Lets a run go on to its end, and judges what came of it.

        Args:
          place: where it is.
          counts: of those before.
          about: what it has met.
          may_lack: whether its log may lack the lines that a warning names.

        Returns:
          The counts with it.
        """
        saved = max(faults.whole_checkpoints(place / "run"), default=0)
        start = self.start(place)
        said = any("holds a finished run" in line for line in start.errors)
        is_finished = start.code == 0 or said
        judged = {
            "traces": bool(start.trace),
            "refused": not start.trace and not is_finished,
            "lost": start.code == 0 and start.step < saved,
            "silent": is_finished
            and self._found(place, start, may_lack) != self.expected(),
        }
        return self.judged(place, counts, judged, f"{about}: {start}")

    def _found(
        self, place: Path, start: Start, may_lack: bool
    ) -> dict[str, object] | None:
        """The outcome, as if what a warning says is missing were there."""
        try:
            found = faults.outcome(place / "run")
        except Exception:
            return None  # Finished, and yet not to be read.
        missing = re.search(r"lacks the lines of steps ([\d, .]+)", start.log)
        if missing and may_lack:
            steps = {int(step) for step in re.findall(r"\d+", missing[1])}
            left = [x for x in self.expected()["log"] if x["step"] not in steps]
            if found["log"] == left:
                found["log"] = self.expected()["log"]
        return found

    def judged(
        self, place: Path, counts: Counts, judged: dict[str, bool], about: str
    ) -> Counts:
        """Adds what became of a run; what did not go well stays, and is said."""
        if any(judged.values()):
            bad = ", ".join(name for name in judged if judged[name])
            print(f"{bad}: {place}: {about}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(place)
        return counts.plus(**{name: int(bad) for name, bad in judged.items()})


class _heard:  # noqa: N801 (A context.)
    """What a start says and logs, also of errors that nobody catches."""

    def __enter__(self):
        self.errors, self.log = io.StringIO(), io.StringIO()
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(contextlib.redirect_stderr(self.errors))
        self._stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        handler = python_logging.StreamHandler(self.log)
        logging.get_absl_logger().addHandler(handler)
        self._stack.callback(logging.get_absl_logger().removeHandler, handler)
        absl = logging.get_absl_handler().python_handler
        before = absl.stream
        absl.stream = io.StringIO()
        self._stack.callback(setattr, absl, "stream", before)
        for owner, name in ((sys, "unraisablehook"), (threading, "excepthook")):
            before = getattr(owner, name)
            setattr(owner, name, self._note)
            self._stack.callback(setattr, owner, name, before)
        return self

    def _note(self, error) -> None:
        print(f"Traceback of what nobody catches: {error}", file=self.errors)

    def __exit__(self, *error) -> None:
        self._stack.close()


def _draw_nothing(path: Path) -> None:
    pictures.save(pictures.plt.figure(), path)


@contextlib.contextmanager
def quick_pictures() -> Iterator[None]:
    """Within it pictures are written, but not drawn."""
    before = Figure.savefig, Figure.tight_layout
    Figure.savefig = lambda figure, file, **options: file.write(_PNG)
    Figure.tight_layout = lambda figure: None
    try:
        yield
    finally:
        Figure.savefig, Figure.tight_layout = before
