"""Runs that are ended and damaged from outside; `scripts/soak.py` does it for longer."""

import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import time

from absl import logging
import pytest

from experiments import running
from scripts import faults, storage, trials

ROOT = Path(__file__).parents[1]
FEW_STEPS = [*faults.SINUSOIDS, "--num_steps=150", "--hidden=4"]


def test_a_run_survives_a_kill_and_damage_bit_for_bit(tmp_path):
    names = ["terminate at the start", "kill, flip a bit"]
    report = faults.meet(tmp_path, [names], random.Random(0), FEW_STEPS)
    assert report.faults == dict.fromkeys(names, 1)
    assert (report.lost, report.wrong) == (0, 0)


DEFERRED = """
import time
from experiments.running.signals import Signals, Stopped
with Signals() as signals:
    try:
        with signals.deferred():
            print("ready", flush=True)
            until = time.time() + {seconds}
            while time.time() < until:
                sum(range(10_000_000))  # As long as a compiled program.
            print("finished", flush=True)
        signals.check()
    except Stopped as stop:
        raise SystemExit(stop.exit_code)
"""


def deferred(seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", DEFERRED.format(seconds=seconds)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=faults.heed_interrupts,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_waits_for_the_end_of_a_step(number, code):
    process = deferred(1.0)
    process.send_signal(number)
    assert process.communicate()[0] == "finished\n" and process.returncode == code


def test_the_second_signal_leaves_at_once():
    process = deferred(60.0)
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.returncode in (130, 143) and process.stdout.read() == ""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_signals_are_set_up_stops_the_run(
    monkeypatch, tmp_path, capsys, number, code
):
    """Whoever started the tests may have SIGINT ignored."""
    before, handle = signal.signal(number, signal.default_int_handler), signal.signal

    def signalled(each, handler):
        previous = handle(each, handler)
        if each == number and handler not in (previous, signal.default_int_handler):
            os.kill(os.getpid(), number)
        return previous

    try:
        monkeypatch.setattr(signal, "signal", signalled)
        assert running.run(lambda: 1 / 0, running.Options(tmp_path)) == code
    finally:
        handle(number, before)
    assert capsys.readouterr().err.splitlines() == [
        f"Stopped by {number.name}: the same command goes on."
    ]


INTERRUPTED = """
from absl import flags
from experiments import command, door
own = flags.FlagValues()
door.define_run_flags(own)
def run():
    raise KeyboardInterrupt
command.start(own, run, about="")
"""


def test_an_interrupt_before_the_engine_sees_to_signals_is_one_line():
    command = [sys.executable, "-c", INTERRUPTED, "--workdir=unused"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "Stopped by SIGINT: the same command goes on.\n"


@pytest.fixture
def small_disk(tmp_path):
    """Starts a command on a file system of a few hundred kilobytes, which is left."""
    inside = 'mount -t tmpfs -o size={size}k none "$0" && exec "$@"'

    def command(size: int, *arguments) -> list[str]:
        script = inside.format(size=size)
        return ["unshare", "-rm", "sh", "-c", script, str(tmp_path), *arguments]

    if not shutil.which("unshare") or subprocess.run(command(100, "true")).returncode:
        pytest.skip("no small file system can be mounted here")
    return command


FILLING = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from metajax import checkpoints
directory = Path(sys.argv[1]) / "checkpoints"
tree = lambda step: {"x": jnp.full(10_000, step, jnp.float32)}
failed = None
try:
    with checkpoints.InBackground(directory, keep=100) as background:
        for step in range(100):
            background.save(step, tree(step))
except OSError as error:
    failed = error.errno
found = checkpoints.restore(directory, tree(0))
names = sorted(int(path.stem) for path in directory.glob("*.npz"))
assert names == list(range(found.step + 1)) and not list(directory.glob("*.unfinished"))
assert (found.tree["x"] == found.step).all()
(directory / "0.npz").unlink()  # There is room again.
checkpoints.save(directory, found.step + 1, tree(found.step + 1), keep=1)
print(failed, found.step)
"""


def test_a_full_disk_is_said_and_leaves_all_earlier_checkpoints(small_disk, tmp_path):
    command = small_disk(300, sys.executable, "-c", FILLING, str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "28 6\n", done.stderr  # ENOSPC, after seven of 40 kB.


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs in this process, which trace and compile but once."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)  # In which a run says where it goes on from.
    with trials.quick_pictures():
        yield trials.Runs(tmp_path_factory.mktemp("runs"))
    logging.set_verbosity(before)


@pytest.fixture
def _heeds_interrupts():
    """Though whoever started the tests may have them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
@pytest.mark.parametrize("kind", storage.KINDS)
def test_nothing_is_lost_refused_or_wrong_whatever_storage_does(runs, kind):
    """At some operations of a run on its files; the soak has all of them."""
    counts = storage.KINDS[kind](runs, 40 if kind in ("kills", "power") else 12)
    assert counts.trials >= 3 and not any(counts[1:]), counts
