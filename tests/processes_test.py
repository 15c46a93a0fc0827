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
RUN = [*faults.SINUSOIDS, "--hidden=4", "--num_tasks=6", "--num_steps=40"]


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


def test_processes_share_a_run_that_others_go_on_with(start, run, tmp_path):
    """A lost one ends the others, and four finish what two began, as one would."""
    endless = start(2, "--num_steps=1000000")
    directory = tmp_path / "run" / "checkpoints"
    while not checkpoints.find(directory):
        assert all(process.poll() is None for process in endless)
        time.sleep(0.02)
    endless[1].send_signal(signal.SIGKILL)
    sent = time.monotonic()
    _, errors = endless[0].communicate()
    assert endless[0].returncode == 75 and time.monotonic() - sent < 10
    assert "another process of the run is lost" in errors
    saved, path = checkpoints.find(directory)[0]
    four = start(4, f"--num_steps={saved + 8}")
    first, *others = [process.communicate()[1] for process in four]
    assert [process.returncode for process in four] == [0] * 4, first
    assert all(f"going on from step {saved}" in log for log in (first, *others))
    lines = logs.read_metrics(tmp_path / "run" / "metrics.jsonl")
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == saved + 8
    assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 2
    alone = tmp_path / "alone"
    code, _, errors = run(*RUN, f"--num_steps={saved + 8}", f"--workdir={alone}")
    assert code == 0, errors
    for name in ("best.npz", "result.npz"):
        one, several = (np.load(tmp_path / who / name) for who in ("alone", "run"))
        assert set(one) == set(several)
        for key in set(one) - {"tasks_hash"}:
            np.testing.assert_allclose(several[key], one[key], rtol=2e-3, atol=1e-5)
        if name == "result.npz":
            assert one["tasks_hash"] == several["tasks_hash"]


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
