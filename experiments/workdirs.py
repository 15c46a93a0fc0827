"""The directory of a run: whose it is, what made it, and what it found."""

from collections.abc import Collection
import contextlib
import fcntl
from importlib import metadata
import json
import os
from pathlib import Path
import platform
import subprocess
import sys

from absl import logging

from experiments import choices

# Where a run is, and how it is looked at: not written into its own flagfile.
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
# What may differ when a run is gone on with: how long, how often, where the data is, and
# in how much memory.
_FREE = (
    "data_dir",
    "num_steps",
    "log_every_steps",
    "eval_every_steps",
    "num_test_tasks",
    "eval_tasks_per_chunk",
    "tasks_per_chunk",
    "num_devices",
    "divide_state",
    "keep_checkpoints",
    "max_skipped",
    "adjoint",
    "remat",
)
_LOCK = "lock"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")


def settings(config) -> dict[str, str]:
    """The runner's own flags that are set, as lines of a flagfile by name."""
    module = config.find_module_defining_flag("workdir")
    own = config.flags_by_module_dict()[module]
    lines = {flag.name: flag.serialize() for flag in own}
    return {k: v for k, v in lines.items() if v and k not in _UNRECORDED}


def fingerprint(config) -> dict[str, str]:
    """The settings that a checkpoint depends on, by name."""
    free = _free(config, Path(config.workdir) / "run.flags")
    lines = settings(config).items()
    return {k: v.split("=", 1)[-1] for k, v in lines if k not in free}


def check(config, workdir: Path, held: contextlib.ExitStack) -> bool:
    """Makes sure that a run may use a directory: new, or its own and unfinished.

    Args:
      config: the flags.
      workdir: the directory, which is locked if it is there.
      held: holds the lock.

    Returns:
      Whether it is locked.

    Raises:
      ValueError: if it holds a finished run, one with other flags, or other files, or
        if another process is at it.
    """
    if (workdir / "result.json").exists():
        raise ValueError(
            f"{workdir} holds a finished run: choose another --workdir, or look at it "
            "with --eval_only."
        )
    record = workdir / "run.flags"
    if record.exists():
        differing = differences(config, workdir, ignore=_free(config, record))
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


def _free(config, record: Path) -> set[str]:
    """The flags that may differ; not those by which the result would, too."""
    fixed = set()
    now = choices.adjoint(config.learner, config.adjoint)
    if now == "implicit" or "--adjoint=implicit" in _lines(record):
        fixed.add("adjoint")
    if config.outer_schedule != "constant":
        fixed.add("num_steps")
    return set(_FREE) - fixed


def _lines(record: Path) -> list[str]:
    return record.read_text().splitlines() if record.exists() else []


def differences(config, workdir: Path, ignore: Collection[str] = ()) -> list[str]:
    """The lines in which the flags and those that a run has recorded differ.

    Flags that the run did not know yet count where they are not at their defaults.
    """
    recorded = _lines(workdir / "run.flags")
    known = {_name(config, line) for line in recorded}
    current = {
        line
        for name, line in settings(config).items()
        if name in known or config[name].value != config[name].default
    }
    differing = set(recorded) ^ current
    return sorted(line for line in differing if _name(config, line) not in ignore)


def _name(config, line: str) -> str:
    name = line.lstrip("-").split("=")[0]
    return name if name in config else name.removeprefix("no")


def claim(config, workdir: Path, held: contextlib.ExitStack, locked: bool) -> None:
    """Makes the directory a run's own, by writing down its flags.

    Args:
      config: the flags.
      workdir: the directory.
      held: holds the lock.
      locked: whether it does since `check`.

    Raises:
      ValueError: if it cannot be written, or another process was first.
    """
    lines = "\n".join(settings(config).values()) + "\n"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not locked:
            _lock(workdir, held)
            if (workdir / "run.flags").exists():
                raise ValueError(f"another run has begun in {workdir}: start again.")
        write_whole(workdir / "run.flags", lines)
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be written: {error.strerror}; choose another."
        ) from error


def of_seeds(config, workdir: Path) -> list[Path]:
    """Where each seed's log and result go: the run's directory, or one in it."""
    if config.num_seeds == 1:
        return [workdir]
    return [workdir / f"seed_{seed}" for seed in choices.seeds(config)]


def write_whole(path: Path, text: str) -> None:
    """Writes a file such that there is the old or the new one, and never half of it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def check_saved(config, workdir: Path) -> None:
    """Makes sure that a directory holds a run, whose flags have been parsed then.

    Raises:
      ValueError: if it does not, or if it is of other seeds.
    """
    record = workdir / "run.flags"
    if not record.exists():
        raise ValueError(f"{workdir} holds no run to evaluate: there is no {record}.")
    changed = differences(config, workdir)
    others = [line for line in changed if _name(config, line) in ("seed", "num_seeds")]
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
