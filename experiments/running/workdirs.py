"""The directory of a run: whose it is, what made it, and what it found."""

from collections.abc import Collection, Mapping
import contextlib
from importlib import metadata
import json
from pathlib import Path
import platform
import subprocess
import sys
from typing import NamedTuple
import zipfile
import zlib

from absl import logging

from experiments.running import locks
from experiments.running.locks import Lock, writing
from experiments.running.options import Options
from metajax import checkpoints, files

# Options that may differ when a run is gone on with.
_FREE = {
    "num_steps",
    "log_every_steps",
    "eval_every_steps",
    "num_devices",
    "divide_state",
    "keep_checkpoints",
}
_RECORD, _STARTS = "run.flags", "starts.jsonl"
# What a start that is cut off may leave.
_OF_A_START = {locks.NAME, _RECORD + files.UNFINISHED}
_ARRAYS = ("best.npz", "result.npz")
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


def fingerprint(settings: Settings, digests: Mapping[str, str]) -> dict[str, str]:
    """What a checkpoint depends on, by name: settings, and digests of the data."""
    lines = settings.lines.items()
    found = {k: v.split("=", 1)[-1] for k, v in lines if k not in settings.may_differ}
    return found | {f"digest of the {name} data": x for name, x in digests.items()}


def is_finished(workdir: Path) -> bool:
    """Whether a directory holds a run that has come to its end.

    One that has lost some of its results is not, if there is a checkpoint to find them
    from again.
    """
    if not (workdir / "result.json").exists():
        return False
    return _is_whole(workdir) or not checkpoints.find(workdir / "checkpoints")


def _is_whole(workdir: Path) -> bool:
    """Whether what `result.json` vouches for can be read."""
    try:
        result = json.loads((workdir / "result.json").read_text())
        each = [workdir / f"seed_{seed}" for seed in result.get("seeds", ())]
        for path in [d / name for d in each or [workdir] for name in _ARRAYS]:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():
                    return False
        written = [path for d in (workdir, *each) for path in d.glob("*.png")]
        written += [d / "result.txt" for d in (workdir, *each)]
        return all(path.stat().st_size for path in written)
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error):
        return False


def check(settings: Settings, workdir: Path, held: contextlib.ExitStack) -> Lock | None:
    """Makes sure that a run may use a directory: new, or its own and unfinished.

    What was left by a start that was cut off is as good as nothing.

    Args:
      settings: what it is asked for.
      workdir: the directory, which is locked if a run has begun there.
      held: holds the lock.

    Returns:
      The lock, or None.

    Raises:
      ValueError: if it holds a finished run, one with other flags, or other files, if
        another process is at it, or if there can be no directory.
      Unwritable: if it cannot be written.
    """
    if is_finished(workdir):
        raise ValueError(
            f"{workdir} holds a finished run: choose another --workdir, or look at it "
            "with --eval_only."
        )
    if (workdir / _RECORD).exists():
        differing = differences(settings, workdir, ignore=settings.may_differ)
        if differing:
            raise ValueError(
                f"{workdir} holds an unfinished run with other flags: choose another "
                f"--workdir, or make these agree: {' '.join(differing)}"
            )
        return Lock(workdir, held)
    there = next(path for path in (workdir, *workdir.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--workdir={workdir}: {there} is no directory.")
    if there == workdir and {path.name for path in workdir.iterdir()} - _OF_A_START:
        raise ValueError(f"{workdir} is not empty and holds no run: choose another.")
    return _lock_new(workdir, held) if (workdir / locks.NAME).exists() else None


def _lock_new(workdir: Path, held: contextlib.ExitStack) -> Lock:
    """Locks a directory in which no run has begun.

    Raises:
      ValueError: if one has, in the meantime.
    """
    lock = Lock(workdir, held)
    if (workdir / _RECORD).exists():
        raise ValueError(f"another run has begun in {workdir}: start again.")
    return lock


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


@writing()
def claim(
    settings: Settings, workdir: Path, held: contextlib.ExitStack, lock: Lock | None
) -> Lock:
    """Makes the directory a run's own, by writing down its settings.

    What is right there already is not written again.

    Args:
      settings: what it is asked for.
      workdir: the directory.
      held: holds the lock.
      lock: that of `check`.

    Returns:
      The lock.

    Raises:
      ValueError: if another process was first.
      Unwritable: if it cannot be written.
    """
    if not lock:
        files.make_directories(workdir)
        lock = _lock_new(workdir, held)
    for place in ("", "seed_*/"):
        for left_over in workdir.glob(f"{place}*{files.UNFINISHED}"):
            left_over.unlink()
    record, lines = workdir / _RECORD, [*settings.lines.values()]
    if not record.exists() or recorded(workdir) != lines:
        files.write_text(record, "\n".join(lines) + "\n")
    return lock


def of_seeds(options: Options) -> list[Path]:
    """Where each seed's log and result go: the run's directory, or one in it."""
    if options.num_seeds == 1:
        return [options.workdir]
    return [options.workdir / f"seed_{seed}" for seed in options.seeds]


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


@writing()
def write_record(workdir: Path, device: str) -> None:
    """Writes down, once more at each start, what the run is made with."""
    record = {
        "arguments": sys.argv[1:],
        "commit": commit(),
        "device": device,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    path = workdir / _STARTS
    before = path.read_text(errors="replace") if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    files.write_text(path, before + json.dumps(record) + "\n")


def warn_of_other_code(workdir: Path) -> None:
    """Warns if the last start is made with other things than the one before it."""
    lines = (workdir / _STARTS).read_text(errors="replace").splitlines()
    before, now = [_made_with(line) for line in ["", *lines][-2:]]
    changes = [
        f"{name} was {before[name]}, is {now[name]}"
        for name in before.keys() & now.keys()
        if before[name] != now[name]
    ]
    if changes:
        logging.warning(
            "%s goes on, but not to the same bits: %s.",
            workdir,
            "; ".join(sorted(changes)),
        )


def _made_with(line: str) -> dict[str, str]:
    """What bits depend on, of a line of `write_record`; nothing if it is damaged."""
    try:
        record = json.loads(line)
        found = {"the commit": record["commit"], "the device": record["device"]}
        return {name: x for name, x in (found | record["versions"]).items() if x}
    except (ValueError, LookupError, TypeError):
        return {}


def commit() -> str | None:
    """The commit of the code, with a plus where files other than kept runs differ."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        runs = "results", "records/*.json"
        code = ":(top)", *(f":(top,exclude)experiments/{each}" for each in runs)
        changed = git("status", "--porcelain", "--untracked-files=no", *code)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
