"""The directory of a run: whose it is, what made it, and what it found."""

from importlib import metadata
import json
from pathlib import Path
import platform
import subprocess
import sys

# Flags that say where a run is or how it is looked at, not what it computes.
_FREE_FLAGS = ("workdir", "data_dir", "platform", "eval_only", "num_test_tasks")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")


def settings(config) -> dict[str, str]:
    """The flags that decide a run's result, as a flagfile's lines, by name."""
    own = config.flags_by_module_dict()[_flags_module(config)]
    return {f.name: f.serialize() for f in own if f.name not in _FREE_FLAGS}


def _flags_module(config) -> str:
    return config.find_module_defining_flag("workdir")


def claim(config, workdir: Path) -> None:
    """Takes a directory for a run: a new one, or an unfinished run of the same flags.

    Raises:
      ValueError: if it holds a finished run, or one with other flags.
      OSError: if it cannot be written.
    """
    if (workdir / "result.json").exists():
        raise ValueError(
            f"{workdir} holds a finished run: choose another --workdir, or look at it "
            "with --eval_only."
        )
    ours = settings(config)
    record = workdir / "run.flags"
    if record.exists():
        theirs = record.read_text().splitlines()
        differing = sorted((set(ours.values()) ^ set(theirs)) - {""})
        if differing:
            raise ValueError(
                f"{workdir} holds an unfinished run with other flags: choose another "
                f"--workdir, or make these agree: {' '.join(differing)}"
            )
    elif workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and holds no run: choose another.")
    workdir.mkdir(parents=True, exist_ok=True)
    record.write_text("\n".join(filter(None, ours.values())) + "\n")


def adopt_flags(config, workdir: Path) -> None:
    """Sets the flags to those a saved run was made with, then to the command line's.

    Raises:
      ValueError: if the directory holds no run.
    """
    record = workdir / "run.flags"
    if not record.exists():
        raise ValueError(f"{workdir} holds no run to evaluate: there is no {record}.")
    config([sys.argv[0], f"--flagfile={record}", *sys.argv[1:]])


def write_record(workdir: Path, device: str) -> None:
    """Writes down once more at each start what the run is made with."""
    record = {
        "command": sys.argv,
        "commit": _commit(),
        "device": device,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    with (workdir / "starts.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def _commit() -> str | None:
    """The commit of the code, with a plus where files differ from it."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
