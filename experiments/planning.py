"""What a run takes of the device's memory, and what to do where that is too much."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import choices
from experiments.building import (
    Experiment,
    build,
    changed,
    num_devices,
    tasks_per_chunk,
    tasks_per_device,
    trace,
    training_step,
)
import metajax as mj
from metajax.costs import matmul_flops

_USABLE = 0.9  # Of the device's memory: not all of it is ours.
# Ways to differentiate the inner loop, of about falling need of memory.
_LADDER = [
    {"adjoint": "unroll", "remat": "none"},
    {"adjoint": "unroll", "remat": "step"},
    {"adjoint": "mixed_mode", "remat": "step"},
    {"adjoint": "unroll", "remat": "nested"},
    {"adjoint": "mixed_mode", "remat": "nested"},
]

Changes = dict[str, Any]  # Values of flags by name.


class Need(NamedTuple):
    """What the program of the training step takes."""

    temporaries: float  # Bytes.
    total: float  # Bytes, data, parameters and results included.
    flops: float  # Of the matrix products of one outer step.


def dry_run(config, device: str) -> None:
    """Compiles the training step in several ways; says what each needs and what fits.

    Args:
      config: the flags of the run.
      device: what it runs on, in words.

    Raises:
      ValueError: if there is no step to compile.
    """
    if not config.num_steps:
        raise ValueError("--dry_run needs a training step: set --num_steps above 0.")
    # The devices stay the same, whatever the chunk.
    fixed = {"num_devices": num_devices(config)}
    config = changed(config, **fixed)
    experiment, progress = build(config)
    share, usable = tasks_per_device(config), _USABLE * device_memory()
    given = tasks_per_chunk(config) or share
    print(f"{device}, {_size(device_memory())} of memory; {share} tasks a device")
    print(f"{'':36s} temporaries      in all  FLOPs a step  fits")

    def measure(changes: Changes) -> Need:
        print(f"{_flags(changes) or 'as given':36s}", end="", flush=True)
        need = _measure(config, changes, experiment, progress.state)
        sizes = f" {_size(need.temporaries):>11s} {_size(need.total):>11s}"
        fits = "yes" if need.total <= usable else "no"
        print(f"{sizes} {need.flops:13.2e}  {fits}", flush=True)
        return need

    fits = {given: measure({}).total <= usable}
    for chunk in sorted({1, share} - {given}):
        fits[chunk] = measure({"tasks_per_chunk": chunk}).total <= usable
    # Between what fits and what does not, by halves.
    while between := _between(share, fits):
        chunk = between[len(between) // 2]
        fits[chunk] = measure({"tasks_per_chunk": chunk}).total <= usable
    smaller = {} if fits[given] or given == 1 else {"tasks_per_chunk": 1}
    rungs = [(rung | smaller, measure(rung | smaller)) for rung in _other_rungs(config)]
    rungs = [(rung, need) for rung, need in rungs if need.total <= usable]
    print(f"Recommended: {_recommend(given, fits, rungs)}")


def _measure(
    config, changes: Changes, experiment: Experiment, state: mj.TrainState
) -> Need:
    config = changed(config, **changes)
    step = training_step(config, experiment.problem)
    traced = trace(config, experiment._replace(step=step), state)
    flops = matmul_flops(traced.jaxpr)
    try:
        temporaries, total = _bytes(traced.lower().compile(), config)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        temporaries = total = math.inf  # Some compilers say at once what does not fit.
    return Need(temporaries, total, flops)


def _other_rungs(config) -> list[Changes]:
    """The rungs of the ladder that are not the one given, and that may help."""
    if not _unrolls(config):
        return []
    given = {
        "adjoint": choices.adjoint(config.learner, config.adjoint),
        "remat": config.remat,
    }
    worth_nesting = config.inner_steps >= 4
    rungs = [r for r in _LADDER if worth_nesting or r["remat"] != "nested"]
    return [rung for rung in rungs if rung != given]


def _unrolls(config) -> bool:
    """Whether inner steps are kept, so that a rung of the ladder could save some."""
    asked = config.learner, config.adjoint, config.estimator
    return config.inner_steps > 0 and choices.unrolls(*asked)


def _between(share: int, fits: dict[int, bool]) -> list[int]:
    """The chunks larger than the largest that fits, but smaller than all that do not."""
    low = max((chunk for chunk in fits if fits[chunk]), default=share)
    high = min((chunk for chunk in fits if not fits[chunk]), default=0)
    return [chunk for chunk in range(low + 1, high) if share % chunk == 0]


def _recommend(
    given: int, fits: dict[int, bool], rungs: list[tuple[Changes, Need]]
) -> str:
    """What to change, of the things that cost the least time."""
    best = max((chunk for chunk in fits if fits[chunk]), default=None)
    on_accelerator = jax.default_backend() != "cpu"
    if best and best != given and (on_accelerator or not fits[given]):
        return f"--tasks_per_chunk={best}, the largest chunk that fits."
    if best:
        return "the flags as they are."
    if rungs:
        rung, _ = min(rungs, key=lambda rung: rung[1].flops)
        return f"{_flags(rung)}, the least arithmetic that fits."
    return "fewer ways, shots or queries, or a smaller model: nothing fits."


def advice(config, error: BaseException) -> str:
    """One line on a run that found no memory: what it was, and what to do."""
    reason = str(error).partition("\n")[0] or "a request was refused"
    chunk = tasks_per_chunk(config) or tasks_per_device(config)
    smaller = f"--tasks_per_chunk below {chunk}, " if chunk > 1 else ""
    rungs = "--adjoint=mixed_mode or --remat=step, " if _unrolls(config) else ""
    seeds = "fewer --num_seeds, " if config.num_seeds > 1 else ""
    return (
        f"Error: out of memory: {reason}. Try {seeds}{smaller}{rungs}"
        "in evaluation --eval_tasks_per_chunk "
        f"below {config.eval_tasks_per_chunk}; --dry_run says what they need. The same "
        "--workdir goes on from its last checkpoint."
    )


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def check_memory(compiled: jax.stages.Compiled, config) -> None:
    """Refuses a training step that the device has no room for.

    The system would not refuse it, but end it half-way without a word.

    Args:
      compiled: the program of the step.
      config: the flags of the run.

    Raises:
      MemoryError: if it needs more memory than there is.
    """
    _, total = _bytes(compiled, config)
    if total > device_memory():
        raise MemoryError(
            f"the training step needs {_size(total)}, the device has "
            f"{_size(device_memory())}"
        )


def device_memory() -> int:
    """Bytes of memory of the device; of the machine where that is a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # No container, or one without a limit.
        return physical


def _bytes(compiled: jax.stages.Compiled, config) -> tuple[int, int]:
    """Temporaries, and all: results that take an argument's place count once.

    Each device has its own, but those of a CPU share one memory.
    """
    here = min(num_devices(config), jax.local_device_count())
    times = here if jax.default_backend() == "cpu" else 1
    memory = compiled.memory_analysis()
    temporaries = memory.temp_size_in_bytes
    others = memory.argument_size_in_bytes + memory.output_size_in_bytes
    total = temporaries + others - memory.alias_size_in_bytes
    return times * temporaries, times * total


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"


def _flags(changes: Changes) -> str:
    return " ".join(f"--{name}={value}" for name, value in changes.items())
