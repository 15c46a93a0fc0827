"""Ends and damages real runs at random, and compares them with one left alone."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

from metajax import checkpoints, logs

ROOT = Path(__file__).parents[1]
# Quick steps, with a checkpoint every few of them, so that many faults meet a save.
SINUSOIDS = (
    "--data=sinusoid --hidden=8 --shots=5 --queries=5 --num_tasks=4 --num_steps=600 "
    "--log_every_steps=3 --eval_every_steps=4 --num_validation_tasks=4 "
    "--num_test_tasks=8 --eval_inner_steps=0 --select_inner_steps=0 --platform=cpu"
).split()


def _flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def _remove(path: Path, chance: random.Random) -> None:
    path.unlink()


class Fault(NamedTuple):
    """How a process is ended, and what happens to the newest checkpoint then."""

    signal: signal.Signals
    damage: Callable[[Path, random.Random], None] | None = None
    early: bool = False  # At a moment of the start, or else as soon as it trains.


FAULTS = {
    "kill": Fault(signal.SIGKILL),
    "terminate": Fault(signal.SIGTERM),
    "interrupt": Fault(signal.SIGINT),
    "kill, flip a bit": Fault(signal.SIGKILL, _flip),
    "kill, truncate": Fault(signal.SIGKILL, _truncate),
    "kill, remove": Fault(signal.SIGKILL, _remove),
    "kill at the start": Fault(signal.SIGKILL, early=True),
    "terminate at the start": Fault(signal.SIGTERM, early=True),
}
_START_SECONDS = 6.0


class Report(NamedTuple):
    """What became of the runs."""

    faults: Counter  # By kind.
    in_a_save: int  # Kills that left an unfinished file.
    lost: int
    wrong: int
    resume_seconds: list[float]  # From a start to its first step.
    exit_seconds: list[float]  # From a signal in training to the end.


def whole_checkpoints(workdir: Path) -> list[int]:
    """The steps of the checkpoints that can be read."""
    steps = []
    for step, path in checkpoints.find(workdir / "checkpoints"):
        try:
            checkpoints.read(path)
            steps.append(step)
        except Exception:
            continue
    return steps


def outcome(workdir: Path) -> dict[str, object]:
    """What must not differ from that of another run of the same flags."""
    timing = ("seconds", "tasks_per_second")
    lines = logs.read_metrics(workdir / "metrics.jsonl")
    found = {
        "result": (workdir / "result.txt").read_text(),
        "log": [{k: v for k, v in x.items() if k not in timing} for x in lines],
    }
    for name in ("best.npz", "result.npz"):
        with np.load(workdir / name) as arrays:
            found |= {f"{name}/{k}": np.asarray(arrays[k]).tobytes() for k in arrays}
    return found


def heed_interrupts() -> None:
    """For a process to begin with: shells have what they start with & ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _Run:
    """A run in a directory, started again and again."""

    def __init__(self, workdir: Path, settings: list[str]):
        self.workdir, self.settings = workdir, settings
        self.log = ""

    def start(self) -> None:
        self._written, self.log = self._size(), ""
        command = [sys.executable, "-m", "experiments.few_shot", *self.settings]
        self.process = subprocess.Popen(
            [*command, f"--workdir={self.workdir}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )

    def trains(self, within: float = float("inf")) -> bool:
        """Waits for a line so many seconds; False if it ends, or writes none by then."""
        until = time.monotonic() + within
        while self.process.poll() is None and time.monotonic() < until:
            if self._size() > self._written:
                return True
            time.sleep(0.005)
        return False

    def end(self) -> int:
        _, self.log = self.process.communicate()
        return self.process.returncode

    def _size(self) -> int:
        path = self.workdir / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def whole_checkpoints(self) -> list[int]:
        return whole_checkpoints(self.workdir)

    def outcome(self) -> dict[str, object]:
        return outcome(self.workdir)


def meet(
    directory: Path, runs: list[list[str]], chance: random.Random, settings=SINUSOIDS
) -> Report:
    """Makes a run without faults, and then one with each list of faults.

    Args:
      directory: where to.
      runs: for each run the names of its faults, in order.
      chance: decides the moments and the damaged bits.
      settings: the flags of the run.

    Raises:
      RuntimeError: if a run ends by itself with an error.
    """
    alone = _Run(directory / "alone", list(settings))
    alone.start()
    _expect(alone.end() == 0, alone)
    expected = alone.outcome()
    report = Report(Counter(), 0, 0, 0, [], [])
    for number, faults in enumerate(runs):
        run = _Run(directory / f"run-{number}", list(settings))
        for name in faults:
            report = _fault(run, name, chance, report)
        saved = max(run.whole_checkpoints(), default=0)
        run.start()
        _expect(run.end() == 0, run)
        report = _resumed(run, saved, report)
        outcome = run.outcome()
        wrong = [name for name in expected if outcome.get(name) != expected[name]]
        if wrong:
            print(f"{faults}: {', '.join(wrong)} differ in {run.workdir}", flush=True)
            report = report._replace(wrong=report.wrong + 1)
        else:
            shutil.rmtree(run.workdir)
    return report


def _fault(run: _Run, name: str, chance: random.Random, report: Report) -> Report:
    """One start that meets one fault."""
    number, damage, early = FAULTS[name]
    saved = max(run.whole_checkpoints(), default=0)
    run.start()
    if early:
        run.trains(within=chance.uniform(0, _START_SECONDS))
    else:
        _expect(run.trains(), run)
    if damage:  # Without a whole one left, a run is refused.
        while len(run.whole_checkpoints()) < 2 and run.process.poll() is None:
            time.sleep(0.02)
    if not early:
        time.sleep(chance.uniform(0, 0.4))
    run.process.send_signal(number)
    sent = time.monotonic()
    code = run.end()
    seconds = time.monotonic() - sent
    # Else it came to its end before, and needs more steps, or did not meet the signal.
    codes = {-number} if number == signal.SIGKILL else {128 + number}
    if early:
        codes.add(-number)  # Before the runner could see to it.
    _expect(code in codes, run)
    report = _resumed(run, saved, report, early)
    if early:  # What was saved must be there still, whatever the start was at.
        kept = max(run.whole_checkpoints(), default=0) >= saved
        report = report._replace(lost=report.lost + (not kept))
    if number != signal.SIGKILL and not early:  # Then what is logged is saved, too.
        lines = logs.read_metrics(run.workdir / "metrics.jsonl")
        kept = max(run.whole_checkpoints(), default=0) >= lines[-1]["step"]
        report = report._replace(lost=report.lost + (not kept))
    unfinished = list((run.workdir / "checkpoints").glob("*.unfinished"))
    found = checkpoints.find(run.workdir / "checkpoints")
    if damage:
        damage(found[0][1], chance)
    return report._replace(
        faults=report.faults + Counter([name]),
        in_a_save=report.in_a_save + bool(unfinished),
        exit_seconds=report.exit_seconds
        + [seconds] * (number != signal.SIGKILL and not early),
    )


def _resumed(run: _Run, saved: int, report: Report, early: bool = False) -> Report:
    """Adds from where a start went on, by what it has said, if it came so far."""
    begun = re.search(r"going on from step (\d+)", run.log)
    if early and not begun:
        return report
    lost = saved != (int(begun[1]) if begun else 0)
    first = re.search(r"first step after ([\d.]+) s", run.log)
    seconds = [float(first[1])] if begun and first else []
    return report._replace(
        lost=report.lost + lost, resume_seconds=report.resume_seconds + seconds
    )


def _expect(condition: bool, run: _Run) -> None:
    if not condition:
        run.log = run.log or run.process.communicate()[1]
        raise RuntimeError(
            f"{run.workdir} ended with {run.process.returncode}: {run.log[-1000:]}"
        )
