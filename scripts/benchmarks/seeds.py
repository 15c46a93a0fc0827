"""What eight seeds in one program take, beside one seed at a time."""

import json
from pathlib import Path
from statistics import median
import time
from typing import Any

import jax

from experiments.door import options
from experiments.few_shot import door
from experiments.few_shot.flags import FLAGS
from experiments.running import preparing, startup
from experiments.running.options import Options

from .processes import ROOT

NUM_SEEDS = 8
# Steps of a timing.
PRESETS = {"sinusoid": 500, "glyphs_5way_1shot": 10}
LEGEND = f"""\
A step of each of {NUM_SEEDS} seeds: in so many runs after one another, on one device or \
with tasks
shared among all devices, or in one program, whose devices share the seeds."""


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Times the steps of both ways, in turn, and writes `seeds.json`."""
    if jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", startup.num_cores())
    presets = list(PRESETS.items())[: 1 if quick else None]
    found = {preset: _measure(preset, steps, quick) for preset, steps in presets}
    (out / "seeds.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(found: dict[str, Any]) -> str:
    """One line a preset and way."""
    lines = [f"{'':24s}{'ms':>24s}{'of one program':>16s}"]
    for preset, seconds in found.items():
        for name, values in seconds.items():
            pairs = zip(values, seconds["one program"])
            ratio = median(value / together for value, together in pairs)
            lines.append(
                f"{preset:24s} {name:14s}{1e3 * median(values):9.2f}{ratio:16.2f}"
            )
    return "\n".join([*lines, LEGEND])


def _measure(preset: str, steps: int, quick: bool) -> dict[str, list[float]]:
    FLAGS.unparse_flags()
    FLAGS(
        [
            "seeds",
            f"--flagfile={ROOT}/experiments/presets/{preset}.flags",
            f"--log_every_steps={steps}",
            "--workdir=unused",
        ]
    )
    ways = {
        "one device": {"num_devices": 1},
        "shared tasks": {},
        "one program": {"num_seeds": NUM_SEEDS},
    }
    advance = {
        name: _advancing(options(FLAGS)._replace(**changes), steps)
        for name, changes in ways.items()
    }
    seconds = {name: [] for name in ways}
    for _ in range(2 if quick else 8):  # The first compiles.
        for name, seconds_a_step in advance.items():
            times = 1 if name == "one program" else NUM_SEEDS
            seconds[name].append(times * seconds_a_step())
    return {name: values[1:] for name, values in seconds.items()}


def _advancing(how: Options, steps: int):
    prepared, progress = preparing.prepare(door.experiment(), how)
    state = progress.state

    def seconds_a_step() -> float:
        nonlocal state
        start = time.perf_counter()
        advanced = preparing.advance(prepared, state, steps, how.log_every_steps)
        state, _ = jax.block_until_ready(advanced)
        return (time.perf_counter() - start) / steps

    return seconds_a_step
