"""Interrupts and damages real runs at random, and compares them with one left alone.

    python scripts/soak.py --runs=20 --faults_per_run=5 --out=FILE.json

Each fault ends the running process, by kill -9 or a signal, at a random moment, and may
damage the newest checkpoint before the next start. When the faults of a run are used up
it is let to its end. Lost is a state that was saved, whole, and not gone on from; wrong is
a run whose parameters, result or log differ in one bit from those of the run left alone.

    python scripts/soak.py --kind=storage --out=FILE.json

Within one process, at each operation of a run on its files: the process ends, the power
goes, the operation fails, a signal comes, the directory is moved; and files are damaged,
and data changed, by hand. `--trials` takes some of all; `--kind=processes` ends real ones.
"""

import json
from pathlib import Path
import random
import statistics
import sys
import tempfile

from absl import app, flags, logging

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts import faults
from scripts.storage import KINDS

_KIND = flags.DEFINE_enum(
    "kind",
    "random",
    ["random", "processes", "storage", *KINDS],
    "Which faults; storage are all that come after it.",
)
_TRIALS = flags.DEFINE_integer("trials", None, "Of each kind so many, else all.", 1)
_RUNS = flags.DEFINE_integer("runs", 10, "Runs that meet faults.", 1)
_FAULTS = flags.DEFINE_integer("faults_per_run", 5, "Faults that each meets.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Decides the faults and their moments.")
_OUT = flags.DEFINE_string("out", None, "A JSON file for the report.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    make = {"random": _random, "processes": _processes}.get(_KIND.value, _storage)
    with tempfile.TemporaryDirectory() as directory:
        summary, is_bad = make(Path(directory), random.Random(_SEED.value))
    print(json.dumps(summary, indent=1))
    if _OUT.value:
        Path(_OUT.value).write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(is_bad)


def _random(directory: Path, chance: random.Random) -> tuple[dict, bool]:
    """Faults at random moments of real processes."""
    names = list(faults.FAULTS)
    number = _RUNS.value * _FAULTS.value
    order = [names[i % len(names)] for i in range(number)]
    chance.shuffle(order)
    runs = [order[i :: _RUNS.value] for i in range(_RUNS.value)]
    report = faults.meet(directory, runs, chance)
    summary = report._asdict() | {
        name: {"median": statistics.median(values), "max": max(values)}
        for name in ("resume_seconds", "exit_seconds")
        if (values := getattr(report, name))
    }
    return summary, bool(report.lost or report.wrong)


def _processes(directory: Path, chance: random.Random) -> tuple[dict, bool]:
    """Real processes that end at operations on files."""
    from scripts import forked

    counts = forked.kills(directory, _RUNS.value, chance)
    return {"processes": counts._asdict()}, any(counts[1:])


def _storage(directory: Path, chance: random.Random) -> tuple[dict, bool]:
    """One kind of fault, or all, at the operations of runs within this process."""
    del chance
    from scripts import trials

    faults.heed_interrupts()
    logging.set_verbosity(logging.INFO)  # In which a run says where it goes on from.
    names = KINDS if _KIND.value == "storage" else [_KIND.value]
    with trials.quick_pictures():
        runs = trials.Runs(directory)
        counts = {name: KINDS[name](runs, _TRIALS.value) for name in names}
    summary = {name: found._asdict() for name, found in counts.items()}
    return summary, any(any(found[1:]) for found in counts.values())


if __name__ == "__main__":
    app.run(main)
