"""What people do by hand to the files of a run, and what came of it."""

from collections.abc import Callable
import errno
import itertools
from pathlib import Path
import shutil
from typing import Any

from scripts import shim
from scripts.disk import Disk, write
from scripts.shim import Operation, Perform
from scripts.trials import Counts, Runs, some


def moved(runs: Runs, most: int | None) -> Counts:
    """The directory is moved away or removed, or its lock is, before each operation."""
    operations = runs.operations({})
    done = [operation[:2] for operation in operations]
    locked = done.index(("open", "run/lock"))
    looked = len(done) - done[::-1].index(("stat", "run/lock"))  # For the last time.
    ways = {"moved": _move, "removed": shutil.rmtree, "unlocked": _unlock}
    trials = some(itertools.product(range(len(operations)), ways), most)
    counts = Counts()
    for number, way in trials:
        place = runs.place()
        run, away = place / "run", place / "away"

        def meddle(way=way, run=run):
            return run.exists() and ways[way](run)

        start = runs.start(place, shim.meddle_at(number, meddle))
        counts, about = counts.plus(trials=1), f"{way} before {number}: {start}"
        said = [line for line in start.errors if line.startswith("Error: ")]
        judged = {
            "traces": bool(start.trace),
            "unsaid": start.code != (5 if said else 0)
            or not (locked < number < looked) <= len(said) <= 1,
            # What is begun anew there must be whole.
            "silent": away.exists() and run.exists() and start.code != 0,
        }
        if any(judged.values()):
            counts = runs.judged(place, counts, judged, about)
            continue
        if away.exists():
            shutil.rmtree(run, ignore_errors=True)
            away.rename(run)
        counts = runs.go_on(place, counts, about)
    return counts


def _move(run: Path) -> None:
    run.rename(run.with_name("away"))


def _unlock(run: Path) -> None:
    (run / "lock").unlink(missing_ok=True)


def _edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        path = run / name
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))

    return edit


def _without_line(text: bytes) -> bytes:
    first, *others = text.split(b"\n")
    return b"\n".join(others)


_CHANGES = {
    "emptied": lambda held: b"",
    "cut": lambda held: held[: len(held) // 2],
    "without its last byte": lambda held: held[:-1],
    "zeros at its end": lambda held: held + bytes(100),
    "zeros in its place": lambda held: bytes(len(held)),
    "damaged in its middle": lambda held: held[:40] + b"\xff{[" + held[43:],
    "without its first line": _without_line,
}
_FINISHED = ("result.json", "result.npz", "result.txt", "best.npz", "curves.png")
DAMAGES: dict[str, Callable[[Path], Any]] = {
    **{
        f"{name} {about}": _edit(name, change)
        for name in ("metrics.jsonl", "starts.jsonl", "lock")
        for about, change in _CHANGES.items()
    },
    **{
        f"{name} removed": lambda run, name=name: (run / name).unlink(missing_ok=True)
        for name in ("metrics.jsonl", "starts.jsonl", "lock")
    },
    **{
        f"left over: {name}": _edit(name, lambda held: b"half")
        for name in (
            *(
                "run.flags.unfinished",
                "best.npz.unfinished",
                "metrics.jsonl.unfinished",
            ),
            *("checkpoints/3.npz.unfinished", "checkpoints/3.tmp"),
        )
    },
}
DAMAGES_OF_RESULTS: dict[str, Callable[[Path], Any]] = {
    **{
        f"{name} {about}": _edit(name, _CHANGES[about])
        for name in _FINISHED
        for about in ("emptied", "cut", "zeros in its place")
        if (name, about) not in (("result.txt", "cut"), ("curves.png", "cut"))
        if (name, about[:5]) not in (("result.txt", "zeros"), ("curves.png", "zeros"))
    },
    **{
        f"{name} removed": lambda run, name=name: (run / name).unlink()
        for name in _FINISHED[:-1]
    },
}


def damage(runs: Runs, most: int | None) -> Counts:
    """Files are damaged by hand, of a run that is half done and of one that is done."""
    runs.expected()
    whole = Disk.after(runs.journal).files()
    trials = [(runs.half_done(), *damage) for damage in DAMAGES.items()]
    trials += [(whole, *damage) for damage in DAMAGES_OF_RESULTS.items()]
    counts = Counts()
    for files, about, harm in some(trials, most):
        place = runs.place()
        write(files, place)
        harm(place / "run")
        counts = runs.go_on(place, counts.plus(trials=1), about, may_lack=True)
    return counts


def data(runs: Runs, most: int | None) -> Counts:
    """Other data comes under the same path before a run that is half done goes on."""
    counts, before = Counts(), dict.fromkeys(("training", "validation", "test"), "1f")
    for changed in some(before, most):
        place = runs.place()
        first, other = (
            runs.experiment._replace(digests=digests)
            for digests in (before, before | {changed: "2e"})
        )
        runs.start(place, _stopping(), first)
        start = runs.start(place, None, other)
        said = f"the {changed} data was 1f, is 2e" in "".join(start.errors)
        judged = {"silent": start.code != 2 or not said, "traces": bool(start.trace)}
        counts = runs.judged(
            place, counts.plus(trials=1), judged, f"{changed}: {start}"
        )
    return counts


def _stopping() -> shim.Hook:
    """Fails the second checkpoint."""

    def hook(operation: Operation, perform: Perform) -> Any:
        if operation.path.startswith("run/checkpoints/4"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return perform()

    return hook
