"""What training adds to its step: drawing tasks, logging, progress, checkpoints.

    bare    one compiled scan of the training step over tasks that are ready
    draw    a scan that draws tasks, and only adds up their numbers
    train   `mj.train`, which draws tasks as it goes
    runner  the runner's loop: that, and what a run logs and saves

The runner's time is that of twice the steps less that of the steps, which leaves out
what comes once a run; there is a checkpoint, and a validation on two tasks, every
`steps` steps.
"""

from collections.abc import Callable
import contextlib
from functools import partial
import json
import os
from pathlib import Path
from statistics import median
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments.door import options
from experiments.few_shot import door
from experiments.few_shot.flags import FLAGS
from experiments.running import loop, preparing, startup
from experiments.running.locks import Lock
from experiments.running.preparing import Prepared, Progress
from experiments.running.records import Records
from experiments.running.signals import Signals
import metajax as mj

from .processes import ROOT, WorkerError

# By preset: steps of a timing, steps between lines of the log, and rounds.
SIZES = {
    "sinusoid": (1000, 500, 20),
    "omniglot_5way_1shot": (25, 25, 5),
    "glyphs_5way_1shot": (25, 25, 5),
}


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Measures the presets, each in a process of its own, and keeps what was found.

    Args:
      out: where `train.json` is written.
      quick: whether to take a tenth of the steps, twice.

    Returns:
      By preset, the seconds a step of each variant and their ratios to the bare step.
      Where `$TFDS_DATA_DIR` has no Omniglot, drawn glyphs take its place.

    Raises:
      WorkerError: if such a process fails.
    """
    directory = Path(os.environ.get("TFDS_DATA_DIR") or "absent")
    images = "omniglot" if (directory / "omniglot").is_dir() else "glyphs"
    results = {}
    for preset in ("sinusoid", f"{images}_5way_1shot"):
        command = [sys.executable, "-m", __name__, preset, str(directory), str(quick)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
        if done.returncode:
            raise WorkerError(f"{preset} ended with exit code {done.returncode}.")
        results[preset] = json.loads(done.stdout.splitlines()[-1])
    (out / "train.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(results: dict[str, Any]) -> str:
    """The results as text, one line a preset and variant."""
    lines = [f"{'':24s}{'ms a step':>11s}{'of bare':>9s}{'range':>15s}"]
    for preset, result in results.items():
        lines.append(f"{preset}, {result['steps']} steps, {result['rounds']} rounds")
        for name, found in result["variants"].items():
            low, high = min(found["ratios"]), max(found["ratios"])
            lines.append(
                f"  {name:22s}{1e3 * median(found['seconds']):11.3f}"
                f"{median(found['ratios']):9.3f}{low:8.2f}-{high:.2f}"
            )
    return "\n".join(lines)


def measure(preset: str, data_dir: str, quick: bool) -> dict[str, Any]:
    """Times the variants of one preset, in turn, on a device a core as in the runner."""
    jax.config.update("jax_num_cpu_devices", startup.num_cores())
    steps, log_every_steps, rounds = SIZES[preset]
    steps, rounds = (max(1, steps // 10), 2) if quick else (steps, rounds)
    with tempfile.TemporaryDirectory() as workdir:
        FLAGS(
            [
                "train",
                f"--flagfile={ROOT}/experiments/presets/{preset}.flags",
                f"--data_dir={data_dir}",
                f"--workdir={workdir}",
                f"--log_every_steps={min(steps, log_every_steps)}",
                f"--eval_every_steps={steps}",
                "--num_validation_tasks=2",
            ]
        )
        variants = _variants(steps)
        seconds = {name: [] for name in variants}
        for _ in range(rounds + 1):  # The first compiles.
            for name, seconds_a_step in variants.items():
                seconds[name].append(seconds_a_step())
    found = {name: {"seconds": values[1:]} for name, values in seconds.items()}
    for values in found.values():
        pairs = zip(values["seconds"], found["bare"]["seconds"])
        values["ratios"] = [value / bare for value, bare in pairs]
    return {"steps": steps, "rounds": rounds, "variants": found}


def _variants(steps: int) -> dict[str, Callable[[], float]]:
    """By name, functions that go on with training, and return the seconds of a step."""
    prepared, progress = preparing.prepare(door.experiment(), options(FLAGS))
    sampler, num_tasks = prepared.tasks, prepared.experiment.num_tasks

    @jax.jit
    def draw(key):
        indices = jnp.arange(steps * num_tasks).reshape(steps, num_tasks)
        return jax.lax.map(lambda i: mj.draw_tasks(key, sampler, i), indices)

    ready = draw(progress.state.key)

    @partial(jax.jit, donate_argnums=0)
    def bare(state):
        return jax.lax.scan(prepared.step, state, ready)

    def add_up(state, tasks):
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tasks))
        return state._replace(step=state.step + 1), {"total": total}

    def train(step, state):
        return mj.train(step, state, sampler, num_tasks=num_tasks, num_steps=steps)

    return {
        "bare": _going_on(bare, progress.state, steps),
        "draw": _going_on(partial(train, add_up), progress.state, steps),
        "train": _going_on(partial(train, prepared.step), progress.state, steps),
        "runner": _runner(prepared, progress, steps),
    }


def _going_on(train, state: mj.TrainState, steps: int) -> Callable[[], float]:
    state = jax.tree.map(jnp.copy, state)  # Its buffers are given up.

    def seconds_a_step() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(train(state))
        return (time.perf_counter() - start) / steps

    return seconds_a_step


def _runner(prepared: Prepared, progress: Progress, steps: int) -> Callable[[], float]:
    progress = jax.tree.map(jnp.copy, progress)
    clock = startup.Clock(time.time())

    def seconds(num_steps: int) -> float:
        nonlocal progress
        first = int(progress.state.step)
        how = options(FLAGS)._replace(num_steps=first + num_steps)
        start = time.perf_counter()
        with Signals() as signals, contextlib.ExitStack() as held:
            records = Records(how, Lock(how.workdir, held), {}, first, [])
            progress = loop.train(
                prepared, how, records, progress, loop.Since(), clock, signals
            )
        return time.perf_counter() - start

    def seconds_a_step() -> float:
        once = seconds(steps)
        return (seconds(2 * steps) - once) / steps

    return seconds_a_step


if __name__ == "__main__":
    preset, data_dir, quick = sys.argv[1:]
    print(json.dumps(measure(preset, data_dir, quick == "True")))
