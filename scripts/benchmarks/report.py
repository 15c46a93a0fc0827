"""The results as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = ",ms a step,x metajax,range,matmul,start s,peak MiB,temp MiB,error".split(",")
LEGEND = """\
x metajax: time over that of metajax, median over rounds, with its range
matmul:    FLOP/s as a share of that of a large matrix product
start s:   tracing, compilation and first step
peak MiB:  memory held at most, less what was held before; a compiler's is counted
temp MiB:  what the compiled step allocates beside its arguments
error:     largest relative difference from metajax in float64, of loss and gradients"""


def table(result: dict[str, Any]) -> str:
    """One workload's results, as from `peers.measure`."""
    cells = [HEADER, *map(_cells, result["rows"])]
    full = [row for row in cells if len(row) > 2]
    widths = [max(len(row[i]) for row in full) for i in range(len(HEADER))]
    names = max(len(row[0]) for row in cells)
    lines = [_title(result)]
    for name, *rest in cells:
        padded = [text.rjust(width) for text, width in zip(rest, widths[1:])]
        rest = padded if len(rest) > 1 else rest
        lines.append(f"{name.ljust(names)}  {'  '.join(rest)}".rstrip())
    return "\n".join(lines)


def _title(result: dict[str, Any]) -> str:
    workload, rate = result["workload"], result["matmul_flops_per_second"]
    support, query = (workload["ways"] * workload[k] for k in ("shots", "queries"))
    order = {1: "first", 2: "second"}[workload["order"]]
    return (
        f"{workload['name']}: {workload['num_tasks']} tasks of {support} + {query} "
        f"examples, inner steps: {workload['inner_steps']}, {order} order; "
        f"{result['flops'] / 1e9:.3g} GFLOP a step, matmul {rate / 1e9:.0f} GFLOP/s"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    if row["note"]:
        return [row["name"], row["note"]]
    low, high = row["ratio_range"]
    temporary = row["temporary_bytes"]
    return [
        row["name"],
        f"{1e3 * row['seconds']:.4g}",
        f"{row['ratio']:.2f}",
        f"{low:.2f} - {high:.2f}",
        f"{row['matmul_share']:.1%}",
        f"{row['start_seconds']:.1f}",
        f"{row['peak_bytes'] / 2**20:.0f}",
        "-" if temporary is None else f"{temporary / 2**20:.1f}",
        f"{row['error']:.0e}",
    ]


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the time of each peer over that of metajax, as bars on a log scale."""
    from matplotlib.figure import Figure  # Takes a second to import.

    rows = [
        (result["workload"]["name"], row)
        for result in results
        for row in result["rows"][1:]
        if row["ratio"] is not None
    ]
    workloads = list(dict.fromkeys(workload for workload, _ in rows))
    peers = list(dict.fromkeys(row["name"] for _, row in rows))
    height = 1.2 + 0.25 * (len(rows) + len(workloads))
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    ticks = {workload: [] for workload in workloads}
    for i, (workload, row) in enumerate(rows):
        place, ratio = i + workloads.index(workload), row["ratio"]
        ticks[workload].append(place)
        color = f"C{peers.index(row['name'])}"
        axes.barh(place, ratio - 1, left=1, color=color)
        label = f" {row['name']} {ratio:.3g}"
        axes.text(max(ratio, 1), place, label, va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks([sum(p) / len(p) for p in ticks.values()], workloads)
    axes.invert_yaxis()
    axes.set_xlabel("time of an outer step over that of metajax")
    figure.savefig(path, dpi=120)
