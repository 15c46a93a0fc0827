"""Measures metajax on this machine.

    python scripts/benchmark.py --out=DIR

    peers    outer steps of several workloads, beside PyTorch and plain JAX; what is absent
             is skipped, and `pip install -e '.[benchmark]'` brings it
    train    what drawing tasks, logging and checkpoints add to a step
    memory   temporaries and time of each way to differentiate an inner loop
    growth   how time and temporaries grow with tasks, steps, ways, shots and width
    adapt    what one task costs in use, learner by learner
    devices  how a step takes more devices, and would take hundreds
    seeds    what several seeds in one program take, beside one seed at a time
    trainings  gradients of whole trainings, and learning a rule, beside Python loops
    games    learning to play in one jit, beside a Python loop of PyTorch

Writes a table, JSON and a picture for each. Needs no network.
"""

from functools import partial
import os
from pathlib import Path
import signal
import subprocess
import sys

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.benchmarks import machine, peers
from scripts.benchmarks.processes import ROOT, WorkerError
from scripts.benchmarks.workloads import WORKLOADS


def _peers(description: dict, out: Path) -> str:
    return peers.run(description, out, _WORKLOADS.value, _PEERS.value, _ROUNDS.value)


def _alone(name: str, description: dict, out: Path) -> str:
    """Runs a suite in a process of its own, since it sets up JAX in its own way."""
    arguments = [name, str(out.absolute()), str(_QUICK.value)]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.alone", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": description["platform"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise WorkerError(f"The suite {name} ended with exit code {done.returncode}.")
    text = f"{machine.lines(description)}\n\n{done.stdout}"
    (out / f"{name}.txt").write_text(text)
    return text


SUITES = {
    "peers": _peers,
    **{
        name: partial(_alone, name)
        for name in (
            "train",
            "memory",
            "growth",
            "adapt",
            "devices",
            "seeds",
            "games",
            "trainings",
        )
    },
}


def _list(name: str, allowed: list[str], text: str) -> flags.FlagHolder:
    """A flag whose values, by comma, are some of those allowed; all, by default."""
    holder = flags.DEFINE_list(name, allowed, text)
    flags.register_validator(
        name,
        lambda names: bool(names) and set(names) <= set(allowed),
        message=f"choose among {', '.join(allowed)}",
    )
    return holder


_SUITES = _list("suites", list(SUITES), "What to measure.")
_WORKLOADS = _list("workloads", list(WORKLOADS), "What the suite peers runs.")
_PEERS = _list("peers", peers.PEERS, "What metajax is compared with.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timings of each, in turn.", lower_bound=1)
_QUICK = flags.DEFINE_bool("quick", False, "Take less of all suites but peers.")
_OUT = flags.DEFINE_string("out", "runs/benchmark", "Where results are written.")
_PLATFORM = flags.DEFINE_enum(
    "platform", "auto", ["auto", "cpu", "gpu", "tpu"], "Where to run."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Workers are ended, too.
    out = Path(_OUT.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
        description = machine.describe(_PLATFORM.value)
        for suite in _SUITES.value:
            print(SUITES[suite](description, out), flush=True)
    except (OSError, WorkerError) as error:
        sys.exit(str(error))
    print(f"\nWritten to {out}.")


if __name__ == "__main__":
    app.run(main)
