"""metajax and its peers, side by side: that they agree, then how long they take."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
import importlib.util
import json
from pathlib import Path
from statistics import median
import sys
import time
from typing import Any

import numpy as np

from . import flops, machine, report
from .processes import Process, Worker, WorkerError, processes
from .workloads import WORKLOADS, Workload

MODULES = {
    "metajax": "metajax_backprop",
    "torch_func": "torch_func",
    "torch_loop": "torch_loop",
    "higher": "torch_higher",
    "jax_vmap": "jax_vmap",
}
NEEDS = {"torch_func": "torch", "torch_loop": "torch", "higher": "higher"}
PEERS = [name for name in MODULES if name != "metajax"]

TOLERANCE = 1e-6  # Of loss and every leaf of the meta-gradient, in float64.
LOSS_TOLERANCE = 1e-2  # Of the loss in float32, where ReLUs near zero may switch.
ROUND_SECONDS = 0.7  # Aimed at for one timing.
SLOW_SECONDS = 20.0  # Of all timings of an implementation that takes longer than that.
PAUSE_SECONDS = 0.1  # So that threads of the one before have gone to sleep.


@dataclass
class Row:
    """What was found of one implementation; `note` says why there is no more."""

    name: str
    note: str | None = None
    error: float | None = None  # In float64, relative to metajax.
    float32_error: float | None = None
    start_seconds: float | None = None  # Tracing, compilation and first step.
    temporary_bytes: int | None = None
    peak_bytes: int | None = None
    rounds: list[float] = field(default_factory=list)  # Seconds a step.
    seconds: float | None = None
    ratio: float | None = None  # To metajax.
    ratio_range: tuple[float, float] | None = None
    matmul_share: float | None = None


def run(
    description: dict[str, Any],
    out: Path,
    workloads: Sequence[str],
    peers: Sequence[str],
    rounds: int,
) -> str:
    """Compares on each workload; keeps what was found after each of them.

    Args:
      description: the machine, as from `machine.describe`.
      out: where `peers.json`, `peers.txt` and `peers.png` are written.
      workloads: names in `WORKLOADS`.
      peers: names in `PEERS`.
      rounds: how often each is timed, in turn.

    Returns:
      The table.
    """
    results = []
    for name in workloads:
        found = measure(WORKLOADS[name], peers, rounds, description["platform"])
        results.append(found)
        everything = {"machine": description, "results": results}
        tables = map(report.table, results)
        text = "\n\n".join([machine.lines(description), *tables, report.LEGEND])
        (out / "peers.json").write_text(json.dumps(everything, indent=1) + "\n")
        (out / "peers.txt").write_text(text + "\n")
        report.draw(results, out / "peers.png")
    return text


def measure(
    workload: Workload, peers: Sequence[str], rounds: int, platform: str
) -> dict[str, Any]:
    """Compares metajax and its peers on one workload."""
    rows = [Row(name, note=_missing(name)) for name in ("metajax", *peers)]
    _check(workload, rows, platform)
    with ExitStack() as stack:
        pool = processes(stack, platform, "float32")
        workers = _start(workload, rows, pool, platform)
        matmul = Worker(next(pool), "matmul", workload, "float32")
        matmul.start()
        rate = flops.matmul() / _time(workload, rows, workers, matmul, rounds)
        for row in _live(rows):
            with _noting(row):
                row.peak_bytes = workers[row.name].peak_bytes()
    needed = flops.outer_step(workload)
    _summarize(_live(rows), needed / rate)
    for row in rows:
        if rows[0].note and not row.note:
            row.note = "not compared, since metajax failed"
    return {
        "workload": workload._asdict(),
        "flops": needed,
        "matmul_flops_per_second": rate,
        "rows": [asdict(row) for row in rows],
    }


def _missing(name: str) -> str | None:
    needed = NEEDS.get(name)
    if needed is None or importlib.util.find_spec(needed):
        return None
    return f"skipped, for want of {needed}: pip install -e '.[benchmark]'"


def _live(rows: list[Row]) -> list[Row]:
    """Rows that nothing stands against; none, if something does against metajax."""
    return [row for row in rows if row.note is None and rows[0].note is None]


@contextmanager
def _noting(row: Row) -> Iterator[None]:
    try:
        yield
    except WorkerError as error:
        row.note = f"failed: {error}"


def _check(workload: Workload, rows: list[Row], platform: str) -> None:
    """Compares loss and meta-gradient of the first step in float64.

    There rounding is far smaller than any mistake. In float32 it is not: a ReLU that
    switches in the last layer can change the gradient by a percent. Two tasks with one
    example a class will do, since plain JAX would take minutes for more.
    """
    few = workload._replace(num_tasks=2, shots=1, queries=1)
    starts = {}
    with ExitStack() as stack:
        pool = processes(stack, platform, "float64")
        workers = {
            row.name: Worker(next(pool), MODULES[row.name], few, "float64")
            for row in _live(rows)
        }
        for row in _live(rows):
            with _noting(row):
                starts[row.name] = workers[row.name].start()
    for row in _live(rows):
        row.error = difference(starts["metajax"], starts[row.name])
        if not row.error < TOLERANCE:  # Nor is NaN.
            row.note = f"disagrees: relative error {row.error:.0e} in float64"
        _say(workload, f"{row.name}: relative error {row.error:.0e} in float64")


def difference(expected: dict[str, Any], got: dict[str, Any]) -> float:
    """The largest relative error of loss and leaves of the gradient, by norm."""
    expected = {"loss": expected["loss"]} | expected["gradient"]
    got = {"loss": got["loss"]} | got["gradient"]
    return max(
        float(np.linalg.norm(got[name] - leaf) / np.linalg.norm(leaf))
        for name, leaf in expected.items()
    )


def _start(
    workload: Workload, rows: list[Row], pool: Iterator[Process], platform: str
) -> dict[str, Worker]:
    """Starts one implementation after another, so that none slows another down."""
    workers, starts = {}, {}
    for row in rows:
        if row not in _live(rows):
            continue
        with _noting(row):
            worker = Worker(next(pool), MODULES[row.name], workload, "float32")
            workers[row.name], start = worker, worker.start()
            starts[row.name] = start
            row.start_seconds = start["start_seconds"]
            row.temporary_bytes = start["temporary_bytes"]
            row.float32_error = difference(starts["metajax"], start)
            _say(workload, f"{row.name}: started in {row.start_seconds:.1f} s")
            loss = starts["metajax"]["loss"]
            if start["platform"] != platform:
                row.note = f"runs on {start['platform']} here, metajax on {platform}"
            elif not abs(start["loss"] - loss) < LOSS_TOLERANCE * abs(loss):
                row.note = f"disagrees: loss {start['loss']}, not {loss}"
    return workers


def _time(
    workload: Workload,
    rows: list[Row],
    workers: dict[str, Worker],
    matmul: Worker,
    rounds: int,
) -> float:
    """Times the implementations in turn; returns the median seconds of a product."""
    products, _ = _calibrate(matmul)
    plans = {}
    for row in _live(rows):
        with _noting(row):
            num_steps, seconds = _calibrate(workers[row.name])
            num_rounds = max(1, min(rounds, int(SLOW_SECONDS / seconds)))
            plans[row.name] = num_steps, num_rounds
    matmul_seconds = []
    for i in range(rounds):
        _say(workload, f"round {i + 1} of {rounds}")
        matmul_seconds.append(_timing(matmul, products))
        for row in _live(rows):
            num_steps, num_rounds = plans[row.name]
            if i < num_rounds:
                with _noting(row):
                    row.rounds.append(_timing(workers[row.name], num_steps))
    return median(matmul_seconds)


def _timing(worker: Worker, num_steps: int) -> float:
    time.sleep(PAUSE_SECONDS)
    return worker.run(num_steps) / num_steps


def _calibrate(worker: Worker) -> tuple[int, float]:
    """The number of steps that makes a round, and the seconds that they take."""
    num_steps, seconds = 1, worker.run(1)
    while seconds < ROUND_SECONDS / 10:
        num_steps *= 8
        seconds = worker.run(num_steps)
    steps = max(1, round(ROUND_SECONDS * num_steps / seconds))
    return steps, steps * seconds / num_steps


def _summarize(rows: list[Row], floor_seconds: float) -> None:
    """Fills in what follows from the rounds; `floor_seconds` at the matmul rate."""
    for row in rows:
        ratios = [own / ours for own, ours in zip(row.rounds, rows[0].rounds)]
        row.seconds = median(row.rounds)
        row.ratio = median(ratios)
        row.ratio_range = min(ratios), max(ratios)
        row.matmul_share = floor_seconds / row.seconds


def _say(workload: Workload, line: str) -> None:
    print(f"{workload.name}: {line}", file=sys.stderr, flush=True)
