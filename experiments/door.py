"""What the doors of all experiments share: flags become parts here, and nowhere else.

A door declares flags, each beside the factory that reads it, and turns them into an
`Experiment` with `Options`, which the engine runs. Nothing behind it reads flags.
"""

from collections.abc import Callable, Iterable, Mapping
import difflib
from functools import partial
from pathlib import Path
import sys
import textwrap
from typing import Any, NamedTuple

from absl import app, flags

# Where a run is, and how it is looked at: not written into its record.
_UNRECORDED = (
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
_RUN_FLAGS = "The run"  # How help calls what every door has.


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

    recorded = [own[name] for name in own if name not in _UNRECORDED]
    lines = {flag.name: flag.serialize() for flag in recorded}
    lines = {name: line for name, line in lines.items() if line}
    defaults = {f.name: lines.get(f.name) for f in recorded if f.value == f.default}
    return running.Settings(lines, defaults, frozenset(free), frozenset(fixed))


# The command line


def start(
    own: flags.FlagValues,
    run: Callable[[], int],
    *,
    about: str,
    sections: Callable[[], Mapping[str, Iterable[str]]] = dict,
    lists: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Parses a command line, does what it says, and exits.

    Args:
      own: the flags of the experiment.
      run: does what they say, and returns the exit code.
      about: what `--help` says first.
      sections: for `--help`, the names of the flags that the chosen parts read, by
        what reads them; nothing where all are always read.
      lists: what `--list` prints: by kind, names and what each is.
    """
    asked = [argument.lstrip("-") for argument in sys.argv[1:]]
    if "list" in asked and lists:
        sys.exit(print(_listed(lists)))
    if {"help", "h", "help=all", "helpfull", "helpshort"} & set(asked):
        everything = bool({"help=all", "helpfull"} & set(asked))
        sys.exit(print(_help(own, about, sections, everything)))
    flags.FLAGS.append_flag_values(own)

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
        sys.exit(run())

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(with_recorded(own, argv))
        except flags.Error as error:
            sys.exit(f"Error: {_explained(error)}")
        own.mark_as_parsed()
        return rest

    app.run(main, flags_parser=parse)


def _explained(error: flags.Error) -> str:
    """What absl says of bad flags; of a preset that is not there, which ones there are."""
    text = str(error).rstrip(".")
    if not isinstance(error, flags.CantOpenFlagFileError):
        return text
    path = Path(text.rpartition(": ")[2].strip("'"))
    presets = [other.stem for other in path.parent.glob("*.flags")]
    return f"there is no {path}: {near(path.stem, presets)}"


def with_recorded(own: flags.FlagValues, argv: list[str]) -> list[str]:
    """A command line with the flags of a saved run before its own, for --eval_only.

    Raises:
      flags.Error: if the record has anything but flags that a run of this version
        records.
    """
    known = flags.FlagValues()
    flags.DEFINE_bool("eval_only", False, "", flag_values=known)
    flags.DEFINE_string("workdir", "", "", flag_values=known)
    known([arg for arg in argv if not arg.lstrip("-").startswith("flagfile")], True)
    record = Path(known.workdir) / "run.flags"
    if not known.eval_only or not record.exists():
        return argv
    return [argv[0], *recorded_lines(own, record), *argv[1:]]


def recorded_lines(own: flags.FlagValues, record: Path) -> list[str]:
    """The lines of a run's record; they are data, whatever they say.

    Raises:
      flags.Error: as `with_recorded`.
    """
    lines = [line for line in record.read_text().splitlines() if line.strip()]
    for line in lines:
        name = line.removeprefix("--").split("=")[0]
        if name not in own:
            name = name.removeprefix("no")
        if not line.startswith("--") or name not in own or name in _UNRECORDED:
            raise flags.Error(
                f"{record} has {line!r}, which a run of this version does not record"
                f"{_maker(record.parent)}"
            )
    return lines


def _maker(workdir: Path) -> str:
    """Which version has made a run, in words."""
    import json

    try:
        starts = (workdir / "starts.jsonl").read_text().splitlines()
        return f": it was made by commit {json.loads(starts[-1])['commit']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


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


def near(name: str, names: Iterable[str]) -> str:
    """The names that are like one that is not among them, in words."""
    like = difflib.get_close_matches(name, list(names), n=4, cutoff=0.5)
    return f"did you mean {', '.join(like)}?" if like else "see --list."


# Help


def _help(own, about: str, sections, everything: bool) -> str:
    argv = [a for a in sys.argv if not a.lstrip("-").startswith("help") and a != "-h"]
    try:
        own(with_recorded(own, argv), known_only=True)
    except flags.Error:
        own.mark_as_parsed()
    found = sections()
    parts = {name for names in found.values() for name in names}
    run_flags = flags.FlagValues()
    define_run_flags(run_flags)
    found = {_RUN_FLAGS: list(run_flags)} | found
    rest = [name for name in own if name not in parts and name not in run_flags]
    if everything or not parts:
        found["All others" if parts else "The experiment"] = rest
    lines = [about.strip(), ""]
    for title, names in found.items():
        lines += [f"{title}:", *(_flag(own[name]) for name in names), ""]
    if parts and not everything:
        lines.append(
            "Other choices read other flags: name them before --help; --help=all has all "
            "flags, --list all choices."
        )
    return "\n".join(lines)


def _flag(flag: flags.Flag) -> str:
    default = flag.serialize().removeprefix("--") or f"{flag.name}=..."
    options = getattr(flag.parser, "enum_values", None)
    about = flag.help
    if options:  # Which absl has put before it.
        about = f"{about.partition('>: ')[2]} One of {', '.join(options)}."
    indent = " " * 6
    body = textwrap.fill(about, 90, initial_indent=indent, subsequent_indent=indent)
    return f"  --{default}\n{body}"


def _listed(lists: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for kind, names in lists.items():
        lines.append(f"{kind}:")
        lines += [f"  {name:36s} {about}" for name, about in names.items()]
        lines.append("")
    return "\n".join(lines).rstrip()
