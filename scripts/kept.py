"""What is kept of results: one small JSON file a run, and pictures beside it.

    python scripts/kept.py DIR

puts each printed table of a directory (NAME.txt, of scripts/benchmark.py or
scripts/check_hypergrad.py) into the JSON of its name. `scripts/reproduce.py` keeps runs.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
from pathlib import Path
import shlex
import sys
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

MOST_POINTS = 50
_DIGITS = 6  # Of the numbers of a curve.
_WIDTH = 160  # So that a metric of a result, with its interval, has one line.


class Kept(NamedTuple):
    """What is kept of a run.

    Attributes:
      result: the test of its parameters, as it wrote `result.json`.
      tests: likewise of further tests, by name.
      starts: of each start the command, commit, device, Python and package versions.
      flags: all its settings, as in its `run.flags`.
      curve: by metric its values at `curve["step"]`; None where it was not measured, or
        was not finite.
    """

    result: dict
    tests: dict[str, dict]
    starts: list[dict]
    flags: list[str]
    curve: dict[str, list]


def gather(
    workdir: Path, door: str, tests: Iterable[str] = (), places: Iterable[str] = ()
) -> Kept:
    """Reads what is to be kept of a finished run.

    Args:
      workdir: its directory.
      door: the module of `experiments` that made it.
      tests: names of further tests, each of which wrote `NAME.json`.
      places: where this machine keeps things, which is left out.
    """
    from metajax import logs

    def read(name: str) -> str:
        text = (workdir / name).read_text()
        for place in places:
            text = text.replace(place, "DIR")
        return text

    starts = []
    for line in read("starts.jsonl").splitlines():
        start = json.loads(line)
        command = ["python", "-m", f"experiments.{door}", *start.pop("arguments")]
        starts.append({"command": shlex.join(command)} | start)
    return Kept(
        result=json.loads(read("result.json")),
        tests={name: json.loads(read(f"{name}.json")) for name in tests},
        starts=starts,
        flags=read("run.flags").split("\n")[:-1],
        curve=curve(logs.read_metrics(workdir / "metrics.jsonl")),
    )


def curve(lines: list[dict]) -> dict[str, list]:
    """The metrics of a run's log, by name, at no more than `MOST_POINTS` steps.

    Lines with validations, by which parameters are chosen, go before others.
    """
    validated = [
        i for i, x in enumerate(lines) if any(k.startswith("validation/") for k in x)
    ]
    others = [i for i in range(len(lines)) if i not in set(validated)]
    chosen = evenly(validated, MOST_POINTS)
    chosen += evenly(others, MOST_POINTS - len(chosen))
    found = [lines[i] for i in sorted(chosen)]
    names = dict.fromkeys(name for line in found for name in line)
    return {name: [_short(line.get(name)) for line in found] for name in names}


def points(curve: Mapping[str, list], name: str) -> list[tuple[int, float]]:
    """The steps at which a metric has a value, with its values."""
    found = zip(curve.get("step", []), curve.get(name, []))
    return [(step, value) for step, value in found if value is not None]


def read(path: Path) -> Kept:
    """What `write` has written of a run."""
    return Kept(**json.loads(path.read_text()))


def write(path: Path, found: Kept | dict) -> None:
    """Writes a run, or several with their table, as JSON for people to read."""
    found = found._asdict() if isinstance(found, Kept) else found
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_as_text(found) + "\n")


def put_tables_into_json(directory: Path) -> list[Path]:
    """Puts `NAME.txt` into `NAME.json`, as `{"table": lines, "found": what was there}`.

    Returns:
      The files that it wrote.
    """
    written = []
    for table in sorted(directory.glob("*.txt")):
        path, found = table.with_suffix(".json"), {}
        if path.exists():
            found = {"found": json.loads(path.read_text())}
        write(path, {"table": table.read_text().splitlines()} | found)
        table.unlink()
        written.append(path)
    return written


def evenly(items: Sequence, number: int) -> list:
    """So many of the items at most, from the first to the last."""
    if len(items) <= number:
        return [*items]
    places = np.linspace(0, len(items) - 1, number).round().astype(int)
    return [items[place] for place in places]


def _short(value: float | None) -> float | None:
    is_number = isinstance(value, float)
    return float(f"{value:.{_DIGITS}g}") if is_number else value


def _as_text(value: Any, indent: str = "") -> str:
    """JSON in which what fits has a line of its own, and so have lists of numbers."""
    line = json.dumps(value)
    numbers = isinstance(value, list) and all(
        x is None or isinstance(x, int | float) for x in value
    )
    if numbers or not isinstance(value, list | dict):
        return line
    if len(indent) + len(line) <= _WIDTH:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{json.dumps(k)}: {_as_text(v, inner)}" for k, v in value.items()]
        opened, closed = "{}"
    else:
        lines = [_as_text(each, inner) for each in value]
        opened, closed = "[]"
    inside = ",\n".join(inner + line for line in lines)
    return f"{opened}\n{inside}\n{indent}{closed}"


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("Name the directory whose tables (*.txt) go into JSON.")
    for path in put_tables_into_json(Path(sys.argv[1])):
        print(path)


if __name__ == "__main__":
    main()
