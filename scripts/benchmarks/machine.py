"""What a benchmark ran on."""

from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import platform
from typing import Any

from experiments.running import startup, workdirs

from .processes import Process, Worker, WorkerError
from .workloads import WORKLOADS

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "higher")


def describe(wanted: str) -> dict[str, Any]:
    """Looks at the machine.

    Args:
      wanted: "cpu", "gpu" or "tpu"; "auto" takes the best that JAX finds.

    Raises:
      WorkerError: if JAX does not find the platform that is wanted, or none at all.
    """
    with Process(wanted) as process:
        sinusoid = WORKLOADS["sinusoid"]
        found = Worker(process, "matmul", sinusoid, "float32").start()
    if wanted not in ("auto", found["platform"]):
        raise WorkerError(
            f"--platform={wanted} was asked for, but JAX finds only {found['platform']} "
            "here: install the JAX that supports it, or use --platform=auto."
        )
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "platform": found["platform"],
        "device": found["device"],
        "cpu": _cpu(),
        "cores": startup.num_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": workdirs.commit(),
    }


def lines(machine: dict[str, Any]) -> str:
    """The same for people to read."""
    versions = [f"{name} {number}" for name, number in machine["packages"].items()]
    return (
        f"{machine['date']}, commit {machine['commit']}\n"
        f"{machine['cpu']}, {machine['cores']} cores; device: {machine['device']}\n"
        f"{machine['system']}, python {machine['python']}, {', '.join(versions)}"
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
