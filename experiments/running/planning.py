"""What a run takes of the device's memory, and what to do where that is too much."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import jax

from experiments.running.experiment import Experiment
from experiments.running.options import Options
from experiments.running.preparing import Prepared, prepare, trace, train_step
import metajax as mj
from metajax.costs import matmul_flops

_USABLE = 0.9  # Of the device's memory: not all of it is ours.


class Need(NamedTuple):
    """What the program of the training step takes."""

    temporaries: float  # Bytes.
    total: float  # Bytes, data, parameters and results included.
    flops: float  # Of the matrix products of one outer step.


def dry_run(experiment: Experiment, options: Options, device: str) -> None:
    """Compiles the training step as asked and otherwise; says what needs and fits what.

    Args:
      experiment: what would be trained.
      options: of the run.
      device: what it runs on, in words.

    Raises:
      ValueError: if there is no step to compile.
    """
    if not options.num_steps:
        raise ValueError("--dry_run needs a training step: set --num_steps above 0.")
    prepared, progress = prepare(experiment, options)
    share, usable = prepared.devices.share, _USABLE * device_memory()
    given = prepared.devices.tasks_per_chunk or share
    print(f"{device}, {_size(device_memory())} of memory; {share} tasks a device")
    print(f"{'':36s} temporaries      in all  FLOPs a step  fits")

    def measure(chunk: int | None = None, cheaper: str | None = None) -> Need:
        print(f"{_asked(chunk, cheaper) or 'as given':36s}", end="", flush=True)
        need = _measure(prepared, options, progress.state, chunk, cheaper)
        sizes = f" {_size(need.temporaries):>11s} {_size(need.total):>11s}"
        fits = "yes" if need.total <= usable else "no"
        print(f"{sizes} {need.flops:13.2e}  {fits}", flush=True)
        return need

    fits = {given: measure().total <= usable}
    for chunk in sorted({1, share} - {given}):
        fits[chunk] = measure(chunk).total <= usable
    # Between what fits and what does not, by halves.
    while between := _between(share, fits):
        chunk = between[len(between) // 2]
        fits[chunk] = measure(chunk).total <= usable
    smaller = None if fits[given] or given == 1 else 1
    needs = {
        _asked(smaller, name): measure(smaller, name) for name in experiment.cheaper
    }
    fitting = {name: need for name, need in needs.items() if need.total <= usable}
    print(f"Recommended: {_recommend(given, fits, fitting)}")


def _measure(
    prepared: Prepared,
    options: Options,
    state: mj.TrainState,
    chunk: int | None,
    cheaper: str | None,
) -> Need:
    devices = prepared.devices
    if chunk is not None:
        devices = devices._replace(tasks_per_chunk=chunk)
    step = train_step(prepared.experiment, devices, cheaper)
    traced = trace(prepared._replace(step=step), state, options.log_every_steps)
    flops = matmul_flops(traced.jaxpr)
    try:
        temporaries, total = _bytes(traced.lower().compile(), devices.number)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        temporaries = total = math.inf  # Some compilers say at once what does not fit.
    return Need(temporaries, total, flops)


def _between(share: int, fits: dict[int, bool]) -> list[int]:
    """The chunks larger than the largest that fits, but smaller than all that do not."""
    low = max((chunk for chunk in fits if fits[chunk]), default=share)
    high = min((chunk for chunk in fits if not fits[chunk]), default=0)
    return [chunk for chunk in range(low + 1, high) if share % chunk == 0]


def _recommend(given: int, fits: dict[int, bool], cheaper: dict[str, Need]) -> str:
    """What to change, of the things that cost the least time."""
    best = max((chunk for chunk in fits if fits[chunk]), default=None)
    on_accelerator = jax.default_backend() != "cpu"
    if best and best != given and (on_accelerator or not fits[given]):
        return f"{_asked(best, None)}, the largest chunk that fits."
    if best:
        return "the flags as they are."
    if cheaper:
        name = min(cheaper, key=lambda name: cheaper[name].flops)
        return f"{name}, the least arithmetic that fits."
    return "smaller tasks, or a smaller model: nothing fits."


def _asked(chunk: int | None, cheaper: str | None) -> str:
    """The flags that ask for a change."""
    return " ".join(
        [cheaper] * bool(cheaper) + [f"--tasks_per_chunk={chunk}"] * bool(chunk)
    )


def advice(error: BaseException, options: Options, prepared: Prepared | None) -> str:
    """One line on a run that found no memory: what it was, and what to do."""
    reason = str(error).partition("\n")[0] or "a request was refused"
    chunk, cheaper = 1, ()
    if prepared is not None:
        chunk = prepared.devices.tasks_per_chunk or prepared.devices.share
        cheaper = list(prepared.experiment.cheaper)[:1]
    tries = [
        *["fewer --num_seeds"] * (options.num_seeds > 1),
        *[f"--tasks_per_chunk below {chunk}"] * (chunk > 1),
        *cheaper,
        "in evaluation a smaller --eval_tasks_per_chunk",
    ]
    return (
        f"Error: out of memory: {reason}. Try {', '.join(tries)}; --dry_run says what "
        "they need. The same --workdir goes on from its last checkpoint."
    )


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def check_memory(compiled: jax.stages.Compiled, prepared: Prepared) -> None:
    """Refuses a training step that the device has no room for.

    The system would not refuse it, but end it half-way without a word.

    Args:
      compiled: the program of the step.
      prepared: what is trained, on its devices.

    Raises:
      MemoryError: if it needs more memory than there is.
    """
    _, total = _bytes(compiled, prepared.devices.number)
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


def _bytes(compiled: jax.stages.Compiled, num_devices: int) -> tuple[int, int]:
    """Temporaries, and all: results that take an argument's place count once.

    Each device has its own, but those of a CPU share one memory.
    """
    here = min(num_devices, jax.local_device_count())
    times = here if jax.default_backend() == "cpu" else 1
    memory = compiled.memory_analysis()
    temporaries = memory.temp_size_in_bytes
    others = memory.argument_size_in_bytes + memory.output_size_in_bytes
    total = temporaries + others - memory.alias_size_in_bytes
    return times * temporaries, times * total


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
