"""The command line of every door: what is parsed, helped with, listed and started."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
import contextlib
import difflib
import json
import logging
import os
from pathlib import Path
import re
import signal
import sys
import textwrap

from absl import app, flags
from absl.testing import flagsaver

from experiments import door

PRESETS = Path(__file__).parent / "presets"


def start(
    own: flags.FlagValues,
    run: Callable[[], int],
    *,
    about: str,
    presets: Path = PRESETS,
    sections_now: Callable[[], Mapping[str, Iterable[str]]] = dict,
    lists_now: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
) -> None:
    """Parses a command line, does what it says, and exits.

    Args:
      own: the flags of the experiment.
      run: does what they say, and returns the exit code.
      about: what `--help` says first.
      presets: the folder of the presets that `--flagfile` knows by name.
      sections_now: for `--help`, the names of the flags that the chosen parts read, by
        what reads them; nothing where all are always read.
      lists_now: what `--list` prints: by kind, names and what each is.
    """
    asked = [argument.lstrip("-") for argument in sys.argv[1:]]
    if "list" in asked:
        sys.exit(print(_listed(lists_now())))
    if {"help", "h", "help=all", "helpfull", "helpshort"} & set(asked):
        everything = bool({"help=all", "helpfull"} & set(asked))
        sys.exit(print(_help(own, about, presets, sections_now, everything)))
    flags.FLAGS.append_flag_values(own)

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
        try:
            _set_up_jax(own)
            code = run()
        except KeyboardInterrupt:  # Before the engine sees to signals, or after.
            code = 128 + signal.SIGINT
            print("Stopped by SIGINT: the same command goes on.", file=sys.stderr)
        if code > 128:  # What JAX is still at must not meet the interpreter's end.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(with_files(own, argv, presets))
        except flags.Error as error:
            sys.exit(f"Error: {str(error).rstrip('.')}")
        own.mark_as_parsed()
        return rest

    app.run(main, flags_parser=parse)


def _set_up_jax(own: flags.FlagValues) -> None:
    """Makes each core a device, unless JAX's settings or several processes say how.

    JAX tries whatever backends it knows, and tells of each that is not there at the
    level of information, which absl shows: of use where one was asked for alone.
    """
    import jax  # After the flags, so that --help is quick.

    from experiments.running import startup

    found = {name: own[name].value for name in own}  # Not every command makes runs.
    logger = logging.getLogger("jax")
    if found.get("platform", "auto") == "auto" and logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    if jax.config.jax_num_cpu_devices < 0 and found.get("num_processes") is None:
        jax.config.update("jax_num_cpu_devices", startup.num_cores())


def near(name: str, names: Iterable[str]) -> str:
    """The names that are like one that is not among them, in words."""
    like = difflib.get_close_matches(name, list(names), n=4, cutoff=0.5)
    return f"did you mean {', '.join(like)}?" if like else "see --list."


def run_study(
    own: flags.FlagValues,
    axis: str,
    makers: Mapping[Hashable, Callable],
    *,
    read: Callable[[Path], dict],
    table: Callable[[dict[Hashable, dict]], str],
    picture: Callable[[dict[Hashable, dict], Path], None],
    free: tuple[str, ...],
    started: float | None = None,
) -> int:
    """Runs several experiments by one command, and then reports on all of them.

    Args:
      own: the flags, which are parsed.
      axis: what the experiments differ in.
      makers: what builds each; that of 3 goes to `axis-3` in `--workdir`.
      read: from the directory of a finished run to what it has found.
      table: from what all have found to text.
      picture: likewise to a picture.
      free: flags that may differ when a run is gone on with.
      started: when the command began.

    Returns:
      The exit code.
    """
    from experiments import running
    from experiments.running import workdirs
    from metajax import files

    options, settings = door.options(own), door.settings(own, free=free)
    names = {key: f"{axis}-{key}" for key in makers}
    code = running.run_each(
        {names[key]: make for key, make in makers.items()},
        options,
        settings,
        started=started,
    )
    if code or options.eval_only or options.dry_run:
        return code
    each = [options._replace(workdir=options.workdir / name) for name in names.values()]
    for into, *directories in zip(*map(workdirs.of_seeds, [options, *each])):
        found = dict(zip(makers, map(read, directories)))
        text = table(found)
        print(text)
        files.make_directory(into)
        files.write_text(into / "result.txt", text + "\n")
        picture(found, into / "result.png")
    return 0


# Flags from files


def with_files(
    own: flags.FlagValues, argv: list[str], presets: Path = PRESETS
) -> list[str]:
    """A command line with the flags of all files that it names.

    Raises:
      flags.Error: if one is not there, or has what it must not have.
    """
    return with_presets(with_recorded(own, argv), presets)


def with_presets(
    argv: Iterable[str], presets: Path, within: tuple[Path, ...] = ()
) -> list[str]:
    """A command line with the lines of flag files in place of their names.

    Args:
      argv: the command line, or the lines of a flag file.
      presets: where a file is looked for whose name alone is given.
      within: the files that have named this one.

    Raises:
      flags.Error: if a file cannot be read, or names itself.
    """
    found, arguments = [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            found.append(argument)
            continue
        path = _flag_file(value if equals else next(arguments, ""), presets)
        if path in within:
            raise flags.Error(f"{path} names itself by --flagfile")
        lines = [line.strip() for line in _read(path).splitlines()]
        lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        found += with_presets(lines, presets, (*within, path))
    return found


def _flag_file(name: str, presets: Path) -> Path:
    path, preset = Path(name).expanduser(), presets / f"{name}.flags"
    for each in (path, preset):
        if each.is_file():
            return each.resolve()
    folder = presets if path.parent == Path() else path.parent
    there_are = [other.stem for other in folder.glob("*.flags")]
    raise flags.Error(
        f"there is no flag file or preset {name!r}: {near(path.stem, there_are)}"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise flags.Error(f"the flag file {path} cannot be read: {error}") from error


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
    # Of a study, whose runs differ in nothing else than what makes them, any will do.
    workdir = Path(known.workdir)
    places = [workdir / "run.flags", *sorted(workdir.glob("*/run.flags"))]
    record = next((path for path in places if path.exists()), None)
    if not known.eval_only or record is None:
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
        if not line.startswith("--") or name not in own or name in door.UNRECORDED:
            raise flags.Error(
                f"{record} has {line!r}, which a run of this version does not record"
                f"{_maker(record.parent)}"
            )
    return lines


@contextlib.contextmanager
def as_recorded(own: flags.FlagValues, workdir: Path) -> Iterator[None]:
    """Sets flags as a run has recorded them, and back again at the end.

    Args:
      own: the flags.
      workdir: the run's directory, or that of one of its seeds.

    Raises:
      ValueError: if the record is not there, or is not one of this version.
    """
    whole = workdir.parent if workdir.name.startswith("seed_") else workdir
    record = whole / "run.flags"
    before = flagsaver.save_flag_values(own)
    try:
        for name in own:
            own[name].unparse()
        own([record.name, *recorded_lines(own, record), f"--workdir={whole}"])
        yield
    except (OSError, flags.Error) as error:
        raise ValueError(f"{record}: {error}") from error
    finally:
        flagsaver.restore_flag_values(before, own)


def _maker(workdir: Path) -> str:
    """Which version has made a run, in words."""
    try:
        starts = (workdir / "starts.jsonl").read_text().splitlines()
        return f": it was made by commit {json.loads(starts[-1])['commit']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def given(own: flags.FlagValues, values: Mapping[str, object]) -> list[str]:
    """The flags that are not at their defaults, but for those of a run's record."""
    names = [name for name in own if values[name] != own[name].default]
    record = Path(values["workdir"] or "") / "run.flags"
    if values["eval_only"] and record.is_file():
        recorded = recorded_lines(own, record)
        names = [name for name in names if own[name].serialize() not in recorded]
    return names


# Help


def sections(
    title: str,
    always: Iterable[flags.FlagHolder],
    parts: Mapping[str, door.Part],
    names: Mapping[str, str],
) -> dict[str, list[str]]:
    """For help: the flags that every run reads, and those of the chosen parts.

    Args:
      title: of the first section.
      always: what every run reads.
      parts: the chosen parts, by the flag that chooses each.
      names: what that flag says.
    """
    found = {title: [holder.name for holder in always]}
    seen = {*found[title]}
    for choice, part in parts.items():
        reads = [name for name in door.flag_names(part) if name not in seen]
        seen.update(reads)
        if reads:
            found[f"--{choice}={names[choice]}, {part.about}"] = reads
    return found


def lists(
    presets: Path, choices: Mapping[str, Mapping[str, door.Part]]
) -> dict[str, dict[str, str]]:
    """What there is to choose, a line each: presets of a folder, and parts."""
    found = {
        "presets (--flagfile=NAME)": {
            path.stem: _first_sentence(path) for path in sorted(presets.glob("*.flags"))
        }
    }
    for choice, parts in choices.items():
        found[f"--{choice}"] = {name: part.about for name, part in parts.items()}
    return found


def _first_sentence(preset: Path) -> str:
    lines = []
    for line in preset.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.strip("# "))
    (sentence, *_) = re.split(r"\.\s+(?=[A-Z])", " ".join(lines))
    return textwrap.shorten(sentence.rstrip("."), 100, placeholder=" ...")


def _help(own, about: str, presets: Path, sections_now, everything: bool) -> str:
    argv = [a for a in sys.argv if not a.lstrip("-").startswith("help") and a != "-h"]
    try:
        own(with_files(own, argv, presets), known_only=True)
    except flags.Error:
        own.mark_as_parsed()
    found = sections_now()
    parts = {name for names in found.values() for name in names}
    run_flags = flags.FlagValues()
    door.define_run_flags(run_flags)
    of_run = [name for name in run_flags if "seed" in own]  # Else it makes no run.
    found = ({"The run": of_run} if of_run else {}) | found
    rest = [name for name in own if name not in parts and name not in of_run]
    if everything or not parts:
        found["All others" if of_run and parts else "Flags"] = rest
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
