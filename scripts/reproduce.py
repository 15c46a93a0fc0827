"""Runs the presets behind the recorded results, and prints their tables.

    python scripts/reproduce.py --run=sinusoid --data_dir=DIR   runs, keeps, prints
    python scripts/reproduce.py                                 prints what was kept

A run that was cut off goes on; one that is finished is not run again. What is kept of
each, in experiments/results, is one small file, as `scripts/kept.py` has it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
import shutil
import sys

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts import kept, starts
from scripts.kept import Kept
from scripts.runs import DOORS, PICTURES, STUDIES, Door, Run, Study

RESULTS = starts.ROOT / "experiments" / "results"

_NAMES = [run.name for door in DOORS for run in door.runs]
_NAMES += [study.name for study in STUDIES]

_RUN = flags.DEFINE_list("run", [], "Runs to make, by the names in the table.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data directory.")
_SEEDS = flags.DEFINE_list(
    "seeds", [], "Of the seeds of a run, those to make; else all."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/reproduce", "Where runs are written.")

flags.register_validator(
    "run",
    lambda names: set(names) <= set(_NAMES),
    message=f"choose among {', '.join(_NAMES)}",
)


def execute(
    door: Door, run: Run, seed: int, workdir: Path, data_dir: str | None
) -> None:
    """Runs one preset with one seed, and keeps what it found."""
    where = workdir / f"{run.name}-{seed}"
    if not (where / "result.json").exists():
        asked = [f"--flagfile={door.presets}/{run.preset or run.name}.flags"]
        asked += [*run.flags, f"--seed={seed}", f"--workdir={where}"]
        asked += [f"--data_dir={data_dir}"] if data_dir else []
        starts.start(door.name, asked)
    tests = run.tests | {
        f"shots-{shots}": (f"--eval_shots={shots}", f"--eval_queries={shots}")
        for shots in run.shots
    }
    for name, changes in tests.items():
        starts.test(door.name, where, name, changes)
    keep(door, where, tests, [*filter(None, (data_dir, str(workdir)))])


def keep(door: Door, where: Path, tests: Iterable[str], places: Iterable[str]) -> None:
    """Keeps a finished run; where this machine keeps things is left out."""
    into = RESULTS / door.results
    found = kept.gather(where, door.name, tests, places)
    kept.write(into / f"{where.name}.json", found)
    for picture in PICTURES:
        if picture.run == where.name:
            for name in picture.names:
                shutil.copy(where / name, into / f"{where.name}-{name}")


def execute_study(study: Study, workdir: Path, data_dir: str | None) -> None:
    """Runs the experiments of a study, and keeps what they found."""
    where = workdir / study.name
    asked = [*study.flags, f"--seed={study.seed}", f"--workdir={where}"]
    if data_dir and study.name != "regression_in_context":  # Whose data are drawn.
        asked.append(f"--data_dir={data_dir}")
    starts.start(study.name, asked)
    places = [*filter(None, (data_dir, str(workdir)))]
    found = {
        path.parent.name: kept.gather(path.parent, study.name, places=places)._asdict()
        for path in sorted(where.glob("*/result.json"))
    }
    table = (where / "result.txt").read_text().splitlines()
    kept.write(RESULTS / f"{study.name}.json", {"table": table, "found": found})
    shutil.copy(where / "result.png", RESULTS / f"{study.name}.png")


_ORIGIN = ("outer steps", "minutes", "device", "commit")


def table(door: Door, line: Callable[..., str], *heads: str) -> str:
    """The kept results of a door; a line for each run and for each further test of it."""
    heads = (*heads, *_ORIGIN)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for run in door.runs:
        for seed in run.seeds:
            path = RESULTS / door.results / f"{run.name}-{seed}.json"
            if path.exists():
                found = kept.read(path)
                lines.append(line(run, seed, found))
                lines += [line(run, seed, found, name) for name in run.tests]
    return "\n".join(lines)


def tables() -> str:
    """The tables of all doors."""
    few_shot, games, rules = DOORS
    interval = "after n inner steps, 95% interval over 600 tasks"
    returns = "return by episode or step, total of a trial"
    ratios = "training loss over Adam's", "with a cosine"
    ratios += "test loss over Adam's", "with a cosine"
    return "\n\n".join(
        [
            table(few_shot, _line, "preset", "seed", interval, "published"),
            table(games, _game_line, "preset", "seed", returns, "published", "exact"),
            players(),
            table(rules, _rule_line, "preset", "seed", "tested on", *ratios),
        ]
    )


_PLAYERS = ("gittins", "thompson", "ucb1", "greedy", "random")


def players() -> str:
    """What bandits of the tests pay a learned policy, and players that need no learning."""
    lines = [f"| {' | '.join(('bandit', 'learned', *_PLAYERS))} |"]
    lines.append("|" + "---|" * (2 + len(_PLAYERS)))
    for path in sorted((RESULTS / "meta_rl").glob("bandit_*-0.json")):
        last = kept.read(path).result["rows"][-1]
        played = ["total", *(f"{name}_total" for name in _PLAYERS)]
        cells = [f"`{path.stem.removesuffix('-0')}`"]
        cells += [_with_interval(last[k]) if k in last else "-" for k in played]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rule_line(run: Run, seed: int, of: Kept, test: str | None = None) -> str:
    result = of.tests[test] if test else of.result
    last = result["rows"][-1]

    def ratio(kind: str, name: str) -> str:
        over = last[f"over_{name}_{kind}"]
        if over["mean"] is None:
            return "diverged"
        return f"{over['mean']:.2f} x/ {over['factor']:.2f}"

    ratios = [ratio(k, n) for k in ("train", "test") for n in ("adam", "adam_cosine")]
    told = [f"`{run.name}`", str(seed), test or "the same"]
    return f"| {' | '.join([*told, *ratios, *_origin(result, of.starts)])} |"


def _game_line(run: Run, seed: int, of: Kept, test: str | None = None) -> str:
    result = of.tests[test] if test else of.result
    rows, axis = result["rows"], result["axis"].replace(" ", "_")
    shown = rows if len(rows) <= 8 else [rows[0], rows[-1]]
    cells = [f"{row[axis]}: {row['return']['mean']:.3f}" for row in shown]
    last = rows[-1].get("total", rows[-1]["return"])
    found = f"{', '.join(cells)}; last {_with_interval(rows[-1]['return'])}"
    if "total" in rows[-1]:
        found = f"{', '.join(cells)}; total {_with_interval(last)}"
    name = f"`{run.name}`" + f", {test}" * bool(test)
    known = ["-"] * 2 if test else [run.published, run.exact]
    origin = _origin(result, of.starts)
    return f"| {' | '.join([name, str(seed), found, *known, *origin])} |"


def _with_interval(summary: dict) -> str:
    return f"{summary['mean']:.3f} +- {summary['interval']:.3f}"


def _origin(result: dict, starts: list[dict]) -> list[str]:
    """Steps, minutes, device and commit of a result."""
    devices = [start["device"].partition(", ")[2] for start in starts]
    commits = [str(start["commit"]) for start in starts]
    return [
        f"{result['best_step']} of {result['steps']}",
        f"{result['train_seconds'] / 60:.0f}",
        ", ".join(dict.fromkeys(device.replace("cpu", "CPU") for device in devices)),
        ", ".join(dict.fromkeys(commit[:7] + commit[12:] for commit in commits)),
    ]


def _line(run: Run, seed: int, of: Kept, test: str | None = None) -> str:
    result = of.tests[test] if test else of.result
    published = run.published_tests.get(test, "-") if test else run.published
    cells = [
        f"`{run.name}`" + f", {test}" * bool(test),
        str(seed),
        ", ".join(map(_cell, result["rows"])),
        published,
        *_origin(result, of.starts),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(row: dict) -> str:
    """One metric after some inner steps; means that are not finite are null there."""
    scale, name, unit, digits = 1, "loss", "", 2
    if "accuracy" in row:
        scale, name, unit, digits = 100, "accuracy", "%", 1

    def number(key):
        value = row[name][key]
        if value is None:
            return "nan"
        return f"{scale * value:.{digits}f}" if value < 1000 else f"{value:.0e}"

    mean, interval, median = map(number, ("mean", "interval", "median"))
    cell = f"{row['inner_steps']}: {mean} +- {interval}{unit}"
    if not unit and row["diverged"]:
        cell += f" (median {median}, {row['diverged']} diverged)"
    return cell


def passed(levels: tuple[float, ...] = (0.95, 0.97, 0.98)) -> list[str]:
    """When the validation accuracy of the kept runs first passed some levels."""
    lines = []
    for path in sorted(RESULTS.glob("omniglot*.json")):
        curve = kept.read(path).curve
        seconds = dict(kept.points(curve, "seconds"))
        for level in levels:
            for step, accuracy in kept.points(curve, "validation/accuracy"):
                if accuracy >= level:
                    lines.append(
                        f"{path.stem} passed {level:.0%} on validation tasks "
                        f"after {step} steps, {seconds[step] / 60:.0f} minutes."
                    )
                    break
    return lines


def misses() -> list[str]:
    """The targets that kept results do not reach, or that were not run."""
    lines = []
    for door in DOORS:
        for run in door.runs:
            for seed in run.seeds if run.targets else ():
                path = RESULTS / door.results / f"{run.name}-{seed}.json"
                lines += _misses(run, seed, path)
    return lines


def _misses(run: Run, seed: int, path: Path) -> list[str]:
    if not path.exists():
        return [f"{run.name}, seed {seed}: not run."]
    result = kept.read(path).result
    axis = result.get("axis", "inner steps")
    by_place = {row[axis.replace(" ", "_")]: row for row in result["rows"]}
    lines = []
    for (place, name), (low, high) in run.targets.items():
        mean = by_place[place][name]["mean"]
        if mean is None or not low <= mean <= high:
            lines.append(
                f"{run.name}, seed {seed}: {name} after {place} {axis} is {mean}, not "
                f"{low:.5g} to {high:.5g}."
            )
    return lines


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    for door in DOORS:
        for run in (run for run in door.runs if run.name in _RUN.value):
            for seed in map(int, _SEEDS.value or run.seeds):
                execute(door, run, seed, Path(_WORKDIR.value), _DATA_DIR.value)
    for study in STUDIES:
        if study.name in _RUN.value:
            execute_study(study, Path(_WORKDIR.value), _DATA_DIR.value)
    missed = misses()
    print("\n".join([tables(), "", *passed(), ""]))
    print("\n".join(missed) if missed else "Every target is reached.")
    sys.exit(bool(missed))


if __name__ == "__main__":
    app.run(main)
