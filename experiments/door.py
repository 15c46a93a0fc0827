"""What the doors of all experiments share: flags become parts here, and nowhere else.

A door declares flags, each beside the factory that reads it, and turns them into an
`Experiment` with `Options`, which the engine runs. Nothing behind it reads flags.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

# Where a run is, and how it is looked at: not written into its record.
UNRECORDED = (
    "workdir",
    "platform",
    "eval_only",
    "dry_run",
    "compilation_cache",
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
)


class Part(NamedTuple):
    """One of the things that a flag names.

    Attributes:
      about: what it is, in a line.
      make: builds it; the values of the flags in `reads` come to it by their names.
      reads: those flags.
      also: flags that are read where it is chosen, but not by `make`.
    """

    about: str
    make: Callable[..., Any]
    reads: tuple[flags.FlagHolder, ...] = ()
    also: tuple[flags.FlagHolder, ...] = ()

    @property
    def flags(self) -> tuple[flags.FlagHolder, ...]:
        return (*self.reads, *self.also)


def flag_names(part: Part) -> list[str]:
    """The names of the flags that are read where a part is chosen."""
    return [holder.name for holder in part.flags]


def bound(
    part: Part, choices: Mapping[str, Mapping[str, Part]], **changes: Any
) -> Callable[..., Any]:
    """What a part makes, as the flags say now; those that choose a part become it.

    Args:
      part: the part.
      choices: all parts, by the flag that chooses among them and its value.
      **changes: other values of some flags.
    """
    found = {holder.name: holder.value for holder in part.reads} | changes
    for name in found.keys() & choices.keys():
        found[name] = bound(choices[name][found[name]], choices)
    return partial(part.make, **found)


def define_run_flags(own: flags.FlagValues) -> None:
    """Defines the flags of every run: those that `options` reads, and few more."""
    text = partial(flags.DEFINE_string, flag_values=own)
    integer = partial(flags.DEFINE_integer, flag_values=own)
    switch = partial(flags.DEFINE_bool, flag_values=own)
    text("workdir", None, "Where the run writes; made if absent.")
    platforms = ["auto", "cpu", "gpu", "tpu"]
    flags.DEFINE_enum("platform", "auto", platforms, "Where to run.", flag_values=own)
    switch(
        "distributed",
        False,
        "Share the tasks with the other processes of this Slurm or Open MPI job, "
        "Kubernetes job or TPU pod, each of which is started with the same flags.",
    )
    text(
        "coordinator",
        None,
        "Likewise anywhere else: host:port of the first of --num_processes.",
    )
    integer("num_processes", None, "Processes that --coordinator awaits.", 1)
    integer("process_id", None, "Which of them this one is, from 0.", 0)
    switch("eval_only", False, "Evaluate the run saved in --workdir.")
    switch(
        "dry_run",
        False,
        "Only compile the training step, and say what it takes and what fits the device.",
    )
    text(
        "compilation_cache",
        None,
        "Where compiled programs are kept for the next start, or none; else JAX's own "
        "setting or the user's cache directory.",
    )
    integer("seed", 0, "Fixes the initial parameters and training tasks.")
    integer(
        "num_seeds",
        1,
        "Seeds that one program trains, from --seed on; the directory of each is seed_N "
        "in --workdir.",
        1,
    )
    text(
        "initial_params",
        None,
        "An npz file of meta-parameters to start from, such as another run's best.npz, or "
        "of some of them.",
    )
    integer(
        "num_devices",
        None,
        "Devices that share the tasks, a CPU core being one; as many as are of use, if "
        "not set.",
        1,
    )
    switch(
        "divide_state",
        False,
        "Divide the parameters and the optimizer's state among the devices, which hold "
        "them whole at the start and in a step alone.",
    )
    integer("num_steps", 1000, "Outer steps.", 0)
    integer("log_every_steps", 100, "Outer steps between lines.", 1)
    every = "Outer steps between validations and checkpoints."
    integer("eval_every_steps", 1000, every, 1)
    integer("keep_checkpoints", 2, "The newest checkpoints are kept.", 1)
    _define_run_validators(own)


def _define_run_validators(own: flags.FlagValues) -> None:
    validator = partial(flags.register_multi_flags_validator, flag_values=own)

    def all_of_them(found):
        number, index = found["num_processes"], found["process_id"]
        are_set = [value is not None for value in found.values()]
        return not any(are_set) or (all(are_set) and index < number)

    validator(
        ["coordinator", "num_processes", "process_id"],
        all_of_them,
        "--coordinator, --num_processes and --process_id are set together, and processes "
        "are numbered from 0",
    )
    validator(
        ["workdir", "dry_run"],
        lambda found: found["workdir"] or found["dry_run"],
        "--workdir must be set, but for a --dry_run",
    )
    validator(
        ["num_seeds", "distributed", "coordinator"],
        lambda f: f["num_seeds"] == 1 or not (f["distributed"] or f["coordinator"]),
        "--num_seeds is for one process: start one for each share of the seeds, with "
        "--seed and --workdir of its own",
    )
    validator(
        ["num_seeds", "divide_state"],
        lambda found: found["num_seeds"] == 1 or not found["divide_state"],
        "--divide_state is for a single seed",
    )


def define_integers(
    own: flags.FlagValues, name: str, default: list[str], about: str
) -> None:
    """Defines a flag of several positive integers."""
    flags.DEFINE_list(name, default, about, flag_values=own)
    flags.register_validator(
        name,
        lambda numbers: (
            bool(numbers) and all(n.isdecimal() and int(n) for n in numbers)
        ),
        f"must be integers, such as {','.join(default)}",
        flag_values=own,
    )


def options(own: flags.FlagValues):
    """What the flags ask of the engine."""
    from experiments import running

    found = {name: own[name].value for name in running.Options._fields}
    return running.Options(**found | {"workdir": Path(own["workdir"].value or "")})


def settings(own: flags.FlagValues, *, free: Iterable[str], fixed: Iterable[str] = ()):
    """What a run records of the flags.

    Args:
      own: the flags of the experiment.
      free: beside the engine's own, names of those that may differ when a run is gone
        on with.
      fixed: names of those that may not, though they are among the engine's.
    """
    from experiments import running

    recorded = [own[name] for name in own if name not in UNRECORDED]
    lines = {flag.name: flag.serialize() for flag in recorded}
    lines = {name: line for name, line in lines.items() if line}
    defaults = {f.name: lines.get(f.name) for f in recorded if f.value == f.default}
    return running.Settings(lines, defaults, frozenset(free), frozenset(fixed))


def refuse_unread(
    chosen: Iterable[Part],
    choices: Mapping[str, Mapping[str, Part]],
    given: Iterable[str],
) -> None:
    """Refuses flags that none of the chosen parts reads.

    Args:
      chosen: the parts.
      choices: all parts, by the flag that chooses among them and its value.
      given: names of the flags that are not at their defaults.

    Raises:
      flags.IllegalFlagValueError: if there is one; it says what reads it.
    """
    read = {name for part in chosen for name in flag_names(part)}
    for name in given:
        readers = _readers(name, choices)
        if readers and name not in read:
            more = [
                f", and --{choice} for {_said(_readers(choice, choices))}"
                for choice in readers
                if choice not in read and _readers(choice, choices)
            ]
            text = f"--{name} is for {_said(readers)}{''.join(more)}"
            raise flags.IllegalFlagValueError(text)


def _readers(
    name: str, choices: Mapping[str, Mapping[str, Part]]
) -> dict[str, list[str]]:
    """What reads a flag: by the flags that choose it, the values that do."""
    found = {
        choice: [value for value, part in parts.items() if name in flag_names(part)]
        for choice, parts in choices.items()
    }
    return {choice: names for choice, names in found.items() if names}


def _said(readers: Mapping[str, list[str]]) -> str:
    return " or ".join(f"--{k}={', '.join(names)}" for k, names in readers.items())
