"""One run of several processes, which meet on this machine."""

from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from metajax import checkpoints, logs
from scripts import faults

ROOT = Path(__file__).parents[1]
# Three processes share the tasks unevenly, two evenly; both divide the state.
RUN = [*faults.SINUSOIDS, "--hidden=6", "--num_tasks=4", "--num_steps=40"]


@pytest.fixture
def start(tmp_path):
    """Starts a run of several processes; whatever is left of them ends with the test."""
    started = []

    def start(number: int, *arguments) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "experiments.few_shot", *RUN, *arguments]
        command += [f"--workdir={tmp_path / 'run'}", f"--coordinator={address}"]
        command.append(f"--num_processes={number}")
        processes = [
            subprocess.Popen(
                [*command, f"--process_id={index}"],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(number)
        ]
        started.extend(processes)
        return processes

    yield start
    for process in started:
        process.kill()


def arrays(path: Path) -> dict[str, np.ndarray]:
    return checkpoints.read(path)[1]


def newest(directory: Path, first: subprocess.Popen, after: int = 0):
    """Waits for a checkpoint later than a step; returns its step and path."""
    while not (found := checkpoints.find(directory)) or found[0][0] <= after:
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.02)
    return found[0]


def lose(lost: subprocess.Popen, others: list[subprocess.Popen]) -> None:
    lost.send_signal(signal.SIGKILL)
    sent = time.monotonic()
    for process in others:
        process.communicate()
        assert process.returncode == 75
    assert time.monotonic() - sent < 10


def test_a_run_goes_on_with_other_numbers_of_processes(start, run, tmp_path):
    """Each holds a part of the state, and whichever is lost, the others end at once."""
    directory = tmp_path / "run" / "checkpoints"
    first, second, third = start(3, "--divide_state", "--num_steps=1000000")
    newest(directory, first)
    lose(third, [first, second])
    step, path = checkpoints.find(directory)[0]
    shared = arrays(path)
    alone = tmp_path / "alone"
    code, _, errors = run(*RUN, f"--num_steps={step}", f"--workdir={alone}")
    assert code == 0, errors
    one = arrays(alone / "checkpoints" / f"{step}.npz")
    assert set(one) == set(shared)
    for name in set(one) - {"seconds", "best_step"}:
        np.testing.assert_allclose(shared[name], one[name], rtol=1e-4, atol=1e-6)
    first, other = start(2, "--divide_state", "--num_steps=1000000")
    newest(directory, first, after=step)
    lose(first, [other])
    last = checkpoints.find(directory)[0][0] + 4
    code, _, errors = run(*RUN, f"--num_steps={last}", f"--workdir={path.parents[1]}")
    assert code == 0, errors
    lines = logs.read_metrics(tmp_path / "run" / "metrics.jsonl")
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == last
    assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--coordinator=127.0.0.1:1"], "are set together"),
        (
            ["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=2"],
            "numbered from 0",
        ),
        (["--distributed"], "set --coordinator, --num_processes and --process_id"),
    ],
)
def test_processes_that_cannot_meet_are_told_what_is_missing(
    run, tmp_path, arguments, message, monkeypatch
):
    code, _, errors = run(*RUN, *arguments, f"--workdir={tmp_path / 'run'}")
    assert code in (1, 2) and message in errors
