"""Interrupts and damages real runs at random, and compares them with one left alone.

    python scripts/soak.py --runs=20 --faults_per_run=5 --out=FILE.json

Each fault ends the running process, by kill -9 or a signal, at a random moment, and may
damage the newest checkpoint before the next start. When the faults of a run are used up
it is let to its end. Lost is a state that was saved, whole, and not gone on from; wrong is
a run whose parameters, result or log differ in one bit from those of the run left alone.
"""

import json
from pathlib import Path
import random
import statistics
import sys
import tempfile

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts import faults

_RUNS = flags.DEFINE_integer("runs", 10, "Runs that meet faults.", 1)
_FAULTS = flags.DEFINE_integer("faults_per_run", 5, "Faults that each meets.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Decides the faults and their moments.")
_OUT = flags.DEFINE_string("out", None, "A JSON file for the report.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    chance = random.Random(_SEED.value)
    names = list(faults.FAULTS)
    number = _RUNS.value * _FAULTS.value
    order = [names[i % len(names)] for i in range(number)]
    chance.shuffle(order)
    runs = [order[i :: _RUNS.value] for i in range(_RUNS.value)]
    with tempfile.TemporaryDirectory() as directory:
        report = faults.meet(Path(directory), runs, chance)
    summary = report._asdict() | {
        name: {"median": statistics.median(values), "max": max(values)}
        for name in ("resume_seconds", "exit_seconds")
        if (values := getattr(report, name))
    }
    print(json.dumps(summary, indent=1))
    if _OUT.value:
        Path(_OUT.value).write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(bool(report.lost or report.wrong))


if __name__ == "__main__":
    app.run(main)
