"""What breaks in storage: at every operation of a run one fault, and what came of it.

Each kind takes `Runs` and how many trials are wanted at most, spread over all that it
has; None for all.
"""

from collections.abc import Callable, Iterable, Iterator
import errno
import functools
import itertools
import os
from pathlib import Path
import random
import signal

from scripts import faults, hands, shim
from scripts.disk import LOSSES, Disk, write
from scripts.shim import READS, Operation
from scripts.trials import Counts, Runs, Start, some

ERRORS = [
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EIO", "ESTALE", "EROFS", "EMFILE", "ETIMEDOUT", "EFBIG"),
        *("EDQUOT", "ENXIO", "EACCES", "EPERM", "ENODEV"),
    )
]


def kills(runs: Runs, most: int | None) -> Counts:
    """The process ends before, within and after each operation."""
    runs.expected()

    def states() -> Iterator[tuple[str, dict]]:
        disk = Disk()
        for number, operation in enumerate(runs.journal):
            if operation.kind == "write":
                half = operation.data[: len(operation.data) // 2]
                within = Disk.after(runs.journal[:number])
                within.do(operation._replace(data=half))
                yield f"within {number}", within.files()
            disk.do(operation)
            yield f"after {number}", disk.files()

    return _from_states(runs, _different(states(), most))


def power(runs: Runs, most: int | None) -> Counts:
    """The power goes after each operation, and what was not synced with it."""
    runs.expected()

    def states() -> Iterator[tuple[str, dict]]:
        disk = Disk()
        for number, operation in enumerate(runs.journal):
            disk.do(operation)
            for loss in LOSSES:
                yield f"{loss} after {number}", disk.files(loss)

    return _from_states(runs, _different(states(), most))


def _different(
    states: Iterable[tuple[str, dict]], most: int | None
) -> list[tuple[str, dict]]:
    """As many different states; if not all, first those that differ in their files."""
    named, others, seen = [], [], set()
    for about, files in states:
        names = frozenset(files)
        held = hash(tuple(sorted((k, v or b"") for k, v in files.items())))
        if names not in seen:
            named.append((about, files))
        elif held not in seen:
            others.append((about, files))
        seen |= {names, held}
    if most is None or most <= len(named):
        return (named + others)[:most]
    return named + some(others, most - len(named))


def _from_states(runs: Runs, states: list[tuple[str, dict]]) -> Counts:
    counts = Counts()
    for about, files in states:
        place = runs.place()
        write(files, place)
        number = int(about.split()[-1])
        kept = max(faults.whole_checkpoints(place / "run"), default=0)
        counts = counts.plus(
            trials=1, lost=kept < _promised(runs.journal[: number + 1])
        )
        counts = runs.go_on(place, counts, about)
    return counts


def _promised(done: list[Operation]) -> int:
    """The step that must have been kept: the one before the last whose save has begun.

    A save begins once the one before it has ended; after the last, the run's results.
    """
    begun = [
        operation.path
        for operation in done
        if operation.kind == "open" and operation.where == 0
        if operation.path.startswith(("run/checkpoints/", "run/best.npz"))
    ]
    names = [Path(path).name.split(".")[0] for path in begun]
    return max([int(name) for name in names[:-1] if name.isdecimal()], default=0)


def errors(runs: Runs, most: int | None) -> Counts:
    """Each operation fails with each error, once or from there on; then all is well."""
    trials = [
        (files, number, operation, code, fail)
        for files in ({}, runs.half_done())
        for number, operation in enumerate(runs.operations(files))
        for code in ERRORS
        for fail in (shim.fail_at, shim.fail_from)
    ]
    if most is not None:  # Neighbours are alike.
        random.Random(0).shuffle(trials)
    counts = Counts()
    for files, number, operation, code, fail in trials[:most]:
        place = runs.place()
        write(files, place)
        start = runs.start(place, fail(number, code))
        about = f"{errno.errorcode[code]} {fail.__name__} {number} {operation[:2]}"
        judged = {
            "traces": bool(start.trace),
            "unsaid": not _is_explained(start, operation),
        }
        counts = counts.plus(trials=1)
        if any(judged.values()):
            counts = runs.judged(place, counts, judged, f"{about}: {start}")
        else:
            counts = runs.go_on(place, counts, about)
    return counts


def _is_explained(start: Start, failed: Operation) -> bool:
    """Whether a start came to its end, or to one line and the exit code for it."""
    said = [line for line in start.errors if line.startswith("Error: ")]
    # Who holds the lock is written as a courtesy; reading may be tried in vain.
    may_pass = failed.kind in READS or (
        failed.path == "run/lock" and failed.kind != "open"
    )
    if start.code == 0:
        return may_pass and not said
    codes = (2, 5) if failed.kind in READS else (5,)
    return start.code in codes and len(said) == 1


def signals(runs: Runs, most: int | None) -> Counts:
    """A signal comes before each operation."""
    trials = itertools.product(
        range(len(runs.operations({}))), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    )
    counts = Counts()
    for number, sent in some(trials, most):
        place = runs.place()
        send = functools.partial(os.kill, os.getpid(), sent)
        start = runs.start(place, shim.meddle_at(number, send))
        said = any(sent.name in line for line in start.errors)
        judged = {
            "traces": bool(start.trace),
            "unsaid": start.code != 0 and (start.code != 128 + sent or not said),
        }
        counts, about = counts.plus(trials=1), f"{sent.name} before {number}: {start}"
        if any(judged.values()):
            counts = runs.judged(place, counts, judged, about)
        else:
            counts = runs.go_on(place, counts, about)
    return counts


KINDS: dict[str, Callable[[Runs, int | None], Counts]] = {
    "kills": kills,
    "power": power,
    "errors": errors,
    "signals": signals,
    "moved": hands.moved,
    "damage": hands.damage,
    "data": hands.data,
}
