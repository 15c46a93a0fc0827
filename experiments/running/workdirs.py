"""The directory of a run: whose it is, what made it, and what it found."""

from collections.abc import Collection, Mapping
import contextlib
import fcntl
from importlib import metadata
import json
import os
from pathlib import Path
import platform
import subprocess
import sys
from typing import NamedTuple

from absl import logging

from experiments.running.options import Options

# Options that may differ when a run is gone on with.
_FREE = {
    "num_steps",
    "log_every_steps",
    "eval_every_steps",
    "num_devices",
    "divide_state",
    "keep_checkpoints",
}
_LOCK, _RECORD = "lock", "run.flags"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")


class Settings(NamedTuple):
    """What a run was asked for: lines of a flagfile by name, such as `--seed=0`."""

    lines: Mapping[str, str] = {}
    defaults: Mapping[str, str] = {}  # The lines of settings that are as by default.
    # Beside the engine's own, what may differ when a run is gone on with, and what may
    # not.
    free: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()

    @property
    def may_differ(self) -> frozenset[str]:
        return (_FREE | self.free) - self.fixed


def fingerprint(settings: Settings) -> dict[str, str]:
    """The settings that a checkpoint depends on, by name."""
    lines = settings.lines.items()
    return {k: v.split("=", 1)[-1] for k, v in lines if k not in settings.may_differ}


def is_finished(workdir: Path) -> bool:
    """Whether a directory holds a run that has come to its end."""
    return (workdir / "result.json").exists()


def check(settings: Settings, workdir: Path, held: contextlib.ExitStack) -> bool:
    """Makes sure that a run may use a directory: new, or its own and unfinished.

    Args:
      settings: what it is asked for.
      workdir: the directory, which is locked if it is there.
      held: holds the lock.

    Returns:
      Whether it is locked.

    Raises:
      ValueError: if it holds a finished run, one with other flags, or other files, or
        if another process is at it.
    """
    if is_finished(workdir):
        raise ValueError(
            f"{workdir} holds a finished run: choose another --workdir, or look at it "
            "with --eval_only."
        )
    record = workdir / _RECORD
    if record.exists():
        differing = differences(settings, workdir, ignore=settings.may_differ)
        if differing:
            raise ValueError(
                f"{workdir} holds an unfinished run with other flags: choose another "
                f"--workdir, or make these agree: {' '.join(differing)}"
            )
        _lock(workdir, held)
        return True
    if workdir.exists() and set(workdir.iterdir()) - {workdir / _LOCK}:
        raise ValueError(f"{workdir} is not empty and holds no run: choose another.")
    return False


def _lock(workdir: Path, held: contextlib.ExitStack) -> None:
    """Keeps other processes away until this one ends, however it does.

    Raises:
      ValueError: if another process is at it.
    """
    file = os.open(workdir / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    held.callback(os.close, file)
    holder = os.read(file, 1000).decode(errors="replace").strip()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"{workdir} is in use by {holder or 'another process'}: wait for it, stop it, "
            "or choose another --workdir."
        ) from error
    except OSError as error:  # Such as of a network's file system.
        logging.warning("%s cannot be locked: %s.", workdir, error.strerror)
        return
    if holder:
        logging.warning("%s was left by %s, which has ended.", workdir, holder)
    with contextlib.suppress(OSError):  # Who it is, is but a courtesy.
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
    held.callback(os.ftruncate, file, 0)


def recorded(workdir: Path) -> list[str]:
    """The lines that a run has written down."""
    record = workdir / _RECORD
    lines = record.read_text().splitlines() if record.exists() else []
    return [line for line in lines if line]


def differences(
    settings: Settings, workdir: Path, ignore: Collection[str] = ()
) -> list[str]:
    """The lines in which the settings and those that a run has recorded differ.

    Settings that the run did not know yet count where they are not at their defaults.
    """
    before = set(recorded(workdir))
    known = {name_of(line, settings.lines) for line in before}
    now = {
        line
        for name, line in settings.lines.items()
        if name in known or settings.defaults.get(name) != line
    }
    differing = before ^ now
    return sorted(x for x in differing if name_of(x, settings.lines) not in ignore)


def name_of(line: str, names: Collection[str]) -> str:
    """The setting that a line is of: `--seed=0`, `--warp`, `--nowarp`."""
    name = line.lstrip("-").split("=")[0]
    return name if name in names else name.removeprefix("no")


def claim(
    settings: Settings, workdir: Path, held: contextlib.ExitStack, locked: bool
) -> None:
    """Makes the directory a run's own, by writing down its settings.

    Args:
      settings: what it is asked for.
      workdir: the directory.
      held: holds the lock.
      locked: whether it does since `check`.

    Raises:
      ValueError: if it cannot be written, or another process was first.
    """
    lines = "\n".join(settings.lines.values()) + "\n"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not locked:
            _lock(workdir, held)
            if (workdir / _RECORD).exists():
                raise ValueError(f"another run has begun in {workdir}: start again.")
        write_whole(workdir / _RECORD, lines)
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be written: {error.strerror}; choose another."
        ) from error


def of_seeds(options: Options) -> list[Path]:
    """Where each seed's log and result go: the run's directory, or one in it."""
    if options.num_seeds == 1:
        return [options.workdir]
    return [options.workdir / f"seed_{seed}" for seed in options.seeds]


def write_whole(path: Path, text: str) -> None:
    """Writes a file such that there is the old or the new one, and never half of it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def check_saved(settings: Settings, workdir: Path) -> None:
    """Makes sure that a directory holds a run, whose settings are those asked for.

    Raises:
      ValueError: if it does not, or if it is of other seeds.
    """
    record = workdir / _RECORD
    if not record.exists():
        raise ValueError(f"{workdir} holds no run to evaluate: there is no {record}.")
    changed = differences(settings, workdir)
    fixed = ("seed", "num_seeds")
    others = [line for line in changed if name_of(line, settings.lines) in fixed]
    if others:
        raise ValueError(f"{workdir} holds a run of other seeds: {' '.join(others)}.")


def write_record(workdir: Path, device: str) -> None:
    """Writes down, once more at each start, what the run is made with."""
    record = {
        "arguments": sys.argv[1:],
        "commit": _commit(),
        "device": device,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    with (workdir / "starts.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def _commit() -> str | None:
    """The commit of the code, with a plus where files other than results differ."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        code = (":(top)", ":(top,exclude)experiments/results")
        changed = git("status", "--porcelain", "--untracked-files=no", *code)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
