"""A process that runs implementations, and answers the harness line by line.

Requests and answers are JSON, one line each. `{"build": [module, workload, dtype, file]}`
builds an implementation, takes one step, writes its meta-gradient to the file and says
how it went; `{"run": [module, steps]}` is answered by seconds, `{"peak": [module]}` by
bytes, and any of them by `{"error": line}` if it fails.
"""

import importlib
import json
import os
from pathlib import Path
import re
import resource
import sys
import time
from typing import Any

import numpy as np

from .implementation import Implementation
from .workloads import Workload, draw_tasks, initial_params


class Server:
    """Answers requests; keeps what it built, and the memory held before."""

    def __init__(self):
        self._built: dict[str, tuple[Implementation, int]] = {}

    def build(
        self, module: str, workload: list, dtype: str, file: str
    ) -> dict[str, Any]:
        workload = Workload.from_json(workload)
        build = importlib.import_module(f".{module}", __package__).build
        params, tasks = initial_params(workload, dtype), draw_tasks(workload, dtype)
        before = resident_peak()
        start = time.perf_counter()
        implementation = build(workload, params, tasks)
        loss = implementation.run(1)
        seconds = time.perf_counter() - start
        np.savez(file, **implementation.gradient())
        self._built[module] = implementation, before
        return {
            "platform": implementation.platform,
            "device": implementation.device,
            "start_seconds": seconds,
            "loss": loss,
            "temporary_bytes": implementation.temporary_bytes,
        }

    def run(self, module: str, num_steps: int) -> float:
        start = time.perf_counter()
        self._built[module][0].run(num_steps)
        return time.perf_counter() - start

    def peak(self, module: str) -> int:
        implementation, before = self._built[module]
        return implementation.device_bytes() or resident_peak() - before


def resident_peak() -> int:
    """The most memory that this process has held, in bytes."""
    if sys.platform == "linux":  # Where getrusage begins with the parent's peak.
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    # Answers have standard output to themselves; what libraries print goes elsewhere.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = Server()
    for line in sys.stdin:
        ((request, arguments),) = json.loads(line).items()
        try:
            answer = getattr(server, request)(*arguments)
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            answer = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(answer), file=output)


if __name__ == "__main__":
    main()
