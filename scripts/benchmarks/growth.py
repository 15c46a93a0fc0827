"""How time and memory grow: one size of the Omniglot workload at a time."""

import json
import math
from pathlib import Path
from statistics import median
import sys
import time
from typing import Any

from . import metajax_backprop
from .workloads import WORKLOADS, Workload, draw_tasks, initial_params

BASE = WORKLOADS["omniglot_5way_1shot"]
SIZES = {
    "num_tasks": (8, 16, 32, 64),
    "inner_steps": (1, 2, 4, 8, 16),
    "ways": (5, 10, 20),
    "shots": (1, 2, 5),
    "width": (16, 32, 64, 128),
}
LEGEND = """\
exponent: of the power law between the first size and the last: 1 is linear. Arithmetic
grows with the square of the width, and all else linearly or less."""


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Measures every size, and writes `growth.json` and `growth.png`.

    Args:
      out: the directory for both.
      quick: whether to take only the first two of each.

    Returns:
      By name of the size, rows of its value, seconds a step and temporaries in bytes.
    """
    results = {}
    for name, values in SIZES.items():
        values = values[:2] if quick else values
        results[name] = [_measure(name, value) for value in values]
        (out / "growth.json").write_text(json.dumps(results, indent=1) + "\n")
    figure(results, out / "growth.png")
    return results


def table(results: dict[str, Any]) -> str:
    """The rows as text, with the exponents they grow by."""
    lines = [f"{BASE.name} with one size changed: ms a step, temporaries in MiB"]
    for name, rows in results.items():
        cells = [
            f"{row['value']}: {1e3 * row['seconds']:.4g}, "
            f"{row['temporary_bytes'] / 2**20:.3g}"
            for row in rows
        ]
        exponents = (_exponent(rows, key) for key in ("seconds", "temporary_bytes"))
        exponents = "exponents {:.2f}, {:.2f}".format(*exponents)
        lines.append(f"{name:12s} {'   '.join(cells)}   {exponents}")
    return "\n".join([*lines, LEGEND])


def figure(results: dict[str, Any], path: Path) -> None:
    """Time and temporaries over each size, with a line of slope 1."""
    from matplotlib.figure import Figure  # Takes a second to import.

    picture = Figure(figsize=(4 * len(results), 6), layout="constrained")
    panels = picture.subplots(2, len(results), squeeze=False)
    for column, (name, rows) in enumerate(results.items()):
        values = [row["value"] for row in rows]
        for panel, key, unit in (
            (panels[0][column], "seconds", 1e-3),
            (panels[1][column], "temporary_bytes", 2**20),
        ):
            found = [row[key] / unit for row in rows]
            panel.plot(values, found, marker="o", label="measured")
            linear = [found[0] * value / values[0] for value in values]
            panel.plot(values, linear, color="grey", linestyle=":", label="linear")
            panel.set(xlabel=name, xscale="log", yscale="log")
            panel.set_xticks(values, values)
            panel.set_xticks([], minor=True)
    panels[0][0].set_ylabel("ms a step")
    panels[1][0].set_ylabel("temporaries, MiB")
    panels[0][0].legend()
    picture.savefig(path, dpi=120)


def _changed(name: str, value: int) -> Workload:
    if name == "width":
        return BASE._replace(hidden=(value,) * len(BASE.hidden))
    return BASE._replace(**{name: value})


def _measure(name: str, value: int) -> dict[str, Any]:
    workload = _changed(name, value)
    params = initial_params(workload, "float32")
    tasks = draw_tasks(workload, "float32")
    implementation = metajax_backprop.build(workload, params, tasks)
    seconds = []
    for _ in range(6):  # The first warms up.
        start = time.perf_counter()
        implementation.run(3)
        seconds.append((time.perf_counter() - start) / 3)
    found = {"value": value, "seconds": median(seconds[1:])}
    line = f"growth: {name}={value}: {1e3 * found['seconds']:.4g} ms"
    print(line, file=sys.stderr, flush=True)
    return found | {"temporary_bytes": implementation.temporary_bytes}


def _exponent(rows: list[dict[str, Any]], key: str) -> float:
    first, last = rows[0], rows[-1]
    grown = math.log(last[key] / first[key])
    return grown / math.log(last["value"] / first["value"])
