"""Records of time to accuracy: runs one again, and says whether it holds.

    python scripts/records.py                              prints the records
    python scripts/records.py --track=NAME --data_dir=DIR  runs one again
    python scripts/records.py --track=NAME --keep          and keeps it as the record

The time is that of whole processes, from their start to their end: imports, data, compiling
with empty caches, training, validation, pictures. The test, on more tasks than a run's own,
comes after it. A record holds if the interval of its test excludes the threshold.
"""

import json
import os
from pathlib import Path
import sys
import tempfile
import time
from typing import Any, NamedTuple

from absl import app, flags
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.running import workdirs
from scripts import kept, starts
from scripts.benchmarks import machine

RECORDS = starts.ROOT / "experiments" / "records"


class Track(NamedTuple):
    """What is to be reached: `metric` after `inner_steps` beyond `threshold`.

    The preset of the track's name trains for it, from the parameters that the preset
    `start` has found, if there is one. `runs` are the changes of each run in it: all times
    add up, and the mean of the tests counts.
    """

    name: str
    about: str
    metric: str
    threshold: float
    inner_steps: int = 0
    start: str | None = None
    runs: tuple[tuple[str, ...], ...] = ((),)
    num_tasks: int = 4000  # Of the test of each run.

    def holds(self, mean: float, interval: float) -> bool:
        if self.metric == "loss":
            return mean + interval < self.threshold
        return mean - interval > self.threshold


_FOLDS = tuple((f"--clinc_fold=0{fold}",) for fold in range(1, 6))

TRACKS = [
    Track("sinusoid_10shot", "sinusoids, 10 points, ten inner steps", "loss", 0.10, 10),
    Track(
        "omniglot_5way_1shot_maml",
        "Omniglot, 5 ways, 1 shot, transductive MAML",
        *("accuracy", 0.98, 5),
        start="omniglot_5way_1shot_maml_start",
    ),
    Track(
        "omniglot_5way_1shot",
        "Omniglot, 5 ways, 1 shot, no query sees another, any learner",
        *("accuracy", 0.95),
    ),
    Track(
        "clinc150_5way_1shot",
        "CLINC150, 5 ways, 1 shot, five folds, nothing pre-trained, any learner",
        *("accuracy", 0.83),
        runs=_FOLDS,
    ),
]
_BY_NAME = {track.name: track for track in TRACKS}

_TRACK = flags.DEFINE_list("track", [], "Tracks to run again, by name.")
_KEEP = flags.DEFINE_boolean("keep", False, "Keep them as the records, if they hold.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data directory.")

flags.register_validator(
    "track",
    lambda names: set(names) <= set(_BY_NAME),
    message=f"choose among {', '.join(_BY_NAME)}",
)


def run(track: Track, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Runs a track's preset from nothing.

    Args:
      track: the track.
      workdir: a new directory for runs and caches.
      data_dir: of the TFDS data.

    Returns:
      What is kept of it: seconds, test, machine, and each run.
    """
    environment = dict(os.environ, XDG_CACHE_HOME=str(workdir / "caches"))
    given = [f"--data_dir={data_dir}"] if data_dir else []
    seconds, runs, rows = 0.0, [], []
    places = [*filter(None, (data_dir, str(workdir)))]

    def train(preset: str, where: Path, *changes: str) -> None:
        flagfile = (RECORDS / preset).relative_to(starts.ROOT)
        asked = [f"--flagfile={flagfile}.flags", *changes, *given]
        starts.start("few_shot", [*asked, f"--workdir={where}"], environment)

    for number, changes in enumerate(track.runs):
        first, where = workdir / f"start-{number}", workdir / f"run-{number}"
        started = time.perf_counter()
        if track.start:
            train(track.start, first)
            changes = *changes, f"--initial_params={first / 'best.npz'}"
        train(track.name, where, *changes)
        seconds += time.perf_counter() - started
        if track.start:
            runs.append(kept.gather(first, "few_shot", places=places)._asdict())
        more = [f"--num_test_tasks={track.num_tasks}"]
        starts.test("few_shot", where, "test", more)
        runs.append(kept.gather(where, "few_shot", ["test"], places)._asdict())
        found = {row["inner_steps"]: row for row in runs[-1]["tests"]["test"]["rows"]}
        rows.append(found[track.inner_steps][track.metric])
    mean = float(np.mean([row["mean"] for row in rows]))
    interval = float(np.linalg.norm([row["interval"] for row in rows]) / len(rows))
    test = {"mean": mean, "interval": interval, "num_tasks": track.num_tasks}
    return {
        "seconds": round(seconds, 1),
        track.metric: test,
        "machine": machine.describe("auto"),
        "runs": runs,
    }


def line(track: Track, found: dict[str, Any]) -> str:
    """A row of the table of records."""
    test, on = found[track.metric], found["machine"]
    scale, unit, digits = (1, "", 3) if track.metric == "loss" else (100, "%", 1)
    bound = "below" if track.metric == "loss" else "above"
    cells = [
        f"`{track.name}`",
        f"{track.about}: {bound} {scale * track.threshold:g}{unit}",
        f"{found['seconds'] / 60:.1f}",
        f"{scale * test['mean']:.{digits}f} +- "
        f"{scale * test['interval']:.{digits + 1}f}{unit}",
        f"{on['cores']} cores, {on['device']}",
        on["date"][:10],
        str(on["commit"])[:7],
    ]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The records that are kept."""
    heads = ("track", "to reach", "minutes", "test", "on", "date", "commit")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for track in TRACKS:
        for path in sorted(RECORDS.glob(f"{track.name}.*.json")):
            lines.append(line(track, json.loads(path.read_text())))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    if _KEEP.value and (workdirs.commit() or "+").endswith("+"):
        sys.exit("A record names the commit that made it: commit what has changed.")
    fallen = []
    for track in map(_BY_NAME.get, _TRACK.value):
        with tempfile.TemporaryDirectory(prefix="record-") as workdir:
            found = run(track, Path(workdir), _DATA_DIR.value)
        holds = track.holds(
            found[track.metric]["mean"], found[track.metric]["interval"]
        )
        print(line(track, found))
        print(f"{track.name} {'holds' if holds else 'does not hold'}.")
        if holds and _KEEP.value:
            platform = found["machine"]["platform"]
            kept.write(RECORDS / f"{track.name}.{platform}.json", found)
        if not holds:
            fallen.append(track.name)
    if not _TRACK.value:
        print(table())
    sys.exit(bool(fallen))


if __name__ == "__main__":
    app.run(main)
