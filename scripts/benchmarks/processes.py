"""Workers as the harness sees them."""

from collections.abc import Iterator
from contextlib import ExitStack
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from .workloads import Workload

ROOT = Path(__file__).parents[2]


class WorkerError(Exception):
    """What went wrong in a worker, in one line."""


class Process:
    """A process of `worker.py`, until the context is left.

    While one process is asked, the others wait for a line, and so leave it the cores.

    Args:
      platform: "cpu" keeps it off other devices; else it takes the best that it finds.
      dtype: "float64" lets JAX use it.
    """

    def __init__(self, platform: str, dtype: str = "float32"):
        settings = {
            "JAX_ENABLE_X64": str(int(dtype == "float64")),
            # Compile times are those of a first start.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            # Several processes share the memory of a GPU.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        if platform == "cpu":
            settings |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self._errors = tempfile.TemporaryFile("w+")
        self._directory = tempfile.TemporaryDirectory()
        self.files = Path(self._directory.name)  # For what does not fit a line.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmarks.worker"],
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def send(self, request: str, *arguments: Any) -> None:
        """Sends a request; its answer is to be read."""
        try:
            print(
                json.dumps({request: arguments}), file=self._process.stdin, flush=True
            )
        except BrokenPipeError:
            pass  # It has ended; reading says why.

    def read(self) -> Any:
        """Waits for the answer to the next request; raises WorkerError in its stead."""
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            reason = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self._errors.seek(0)
            last = self._errors.read().strip().split("\n")[-1]
            raise WorkerError(
                f"its process ended {reason}: {last or 'no reason given'}"
            )
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._directory.cleanup()


def processes(stack: ExitStack, platform: str, dtype: str) -> Iterator[Process]:
    """A process for each who asks, but one for all on a TPU, which serves only one.

    There the peaks of memory are those of all implementations so far.
    """
    process = None
    while True:
        if process is None or platform != "tpu":
            process = stack.enter_context(Process(platform, dtype))
        yield process


class Worker:
    """One implementation in a process, which begins to build it at once."""

    def __init__(self, process: Process, module: str, workload: Workload, dtype: str):
        self._process, self._module = process, module
        self._gradient = process.files / f"{module}.npz"
        process.send("build", module, workload, dtype, str(self._gradient))

    def start(self) -> dict[str, Any]:
        """Waits for the first step, and returns what there is to say of it."""
        answer = self._process.read()
        with np.load(self._gradient) as arrays:
            return answer | {"gradient": dict(arrays)}

    def run(self, num_steps: int) -> float:
        """Takes outer steps, and returns the seconds that they took."""
        self._process.send("run", self._module, num_steps)
        return self._process.read()

    def peak_bytes(self) -> int:
        """The most memory held so far, less what was held before it was built."""
        self._process.send("peak", self._module)
        return self._process.read()
