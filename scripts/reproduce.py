"""Runs the presets behind the README's results, and prints its table.

    python scripts/reproduce.py --run=sinusoid --data_dir=DIR   runs, keeps, prints
    python scripts/reproduce.py                                 prints what was kept

A run that was cut off goes on; one that is finished is not run again. What is kept of
each, in experiments/results, is its result, its log, and the command and commit.
"""

import json
from pathlib import Path
import subprocess
import sys
from typing import NamedTuple

from absl import app, flags

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
KEPT = ("result.json", "result.txt", "metrics.jsonl", "starts.jsonl", "run.flags")


class Run(NamedTuple):
    """One line of the table: a preset, and what it is held against."""

    name: str  # Of the preset, unless `preset` says else.
    seeds: tuple[int, ...] = (0,)
    published: str = "-"
    preset: str | None = None
    flags: tuple[str, ...] = ()  # Where the run departs from its preset.
    shots: tuple[int, ...] = ()  # Of further tests, with as many queries.
    tests: dict[str, tuple[str, ...]] = {}  # Further lines of the table: their flags.
    published_tests: dict[str, str] = {}
    # (inner steps, metric) to the range that the mean must be in.
    targets: dict[tuple[int, str], tuple[float, float]] = {}


# What re-implementations of 20-way MAML do otherwise, one change at a time, and together.
_USUAL = ("--inner_rate=0.1", "--adapted=", "--init_std=0.125")
_ABLATION = {
    name: (*flags, "--num_steps=600")
    for name, flags in {
        "short": (),
        "low_rate": ("--inner_rate=0.1",),
        "all_adapted": ("--adapted=",),
        "small_head": ("--init_std=0.125",),
        "usual": _USUAL,
    }.items()
}

# What took a GPU: more steps than two cores allow, and larger models.
_LONGER_PROTONET = ("--downsample=pool", "--num_steps=10000")
_LONGER_CIFAR_FS = ("--num_tasks=4", "--num_steps=6000")

_MORE_WAYS = {"20-way": ("--eval_ways=20",)}
_FIVE_SHOTS = {"5-shot": ("--eval_shots=5",)}

RUNS = [
    Run(
        "sinusoid",
        seeds=(0, 1, 2),
        shots=(5, 10, 20),
        published="0.67, 0.38, 0.35 (1, 5, 10 steps; Finn et al. 2017)",
        targets={
            (1, "loss"): (0.0, 0.67),
            (5, "loss"): (0.0, 0.38),
            (10, "loss"): (0.0, 0.35),
        },
    ),
    *(
        Run(f"sinusoid_{learner}", seeds=(0, 1, 2), shots=(5, 10, 20))
        for learner in (
            "fomaml",
            "reptile",
            "anil",
            "boil",
            "meta_sgd",
            "meta_curvature",
            "cavia",
            "imaml",
            "maml_plus_plus",
            "warpgrad",
        )
    ),
    Run(
        "omniglot_5way_1shot",
        published="98.7 +- 0.4 (3 steps; Finn et al. 2017)",
        targets={(3, "accuracy"): (0.983, 0.991)},
    ),
    Run("omniglot_5way_1shot_inductive"),
    Run("omniglot_5way_1shot_fomaml", published="98.3 (Nichol et al. 2018)"),
    Run("omniglot_5way_1shot_anil"),
    Run("omniglot_5way_1shot_meta_sgd"),
    Run(
        "omniglot_5way_1shot_reptile",
        flags=("--num_steps=15000",),
        published="97.68 (Nichol et al. 2018)",
    ),
    Run(
        "omniglot_5way_1shot_reptile_fresh",
        preset="omniglot_5way_1shot_reptile",
        flags=("--nokeep_inner_state",),
    ),
    Run(
        "omniglot_5way_1shot_reptile_small_batches",
        preset="omniglot_5way_1shot_reptile",
        flags=(
            "--nokeep_inner_state",
            "--shots=10",
            "--inner_batch=10",
            "--inner_steps=5",
            "--num_tasks=5",
            "--eval_inner_steps=0,5,50",
            "--select_inner_steps=50",
        ),
    ),
    Run(
        "omniglot_5way_1shot_reptile_inductive",
        flags=("--num_steps=15000",),
        published="95.39 (likewise)",
    ),
    Run("omniglot_5way_1shot_imaml", flags=("--num_steps=500",)),
    Run("omniglot_5way_1shot_maml_plus_plus", published="99.47 (Antoniou et al. 2019)"),
    Run(
        "omniglot_20way_1shot",
        flags=("--num_steps=10586",),  # How far the GPU came.
        published="95.8 +- 0.3 (5 steps; Finn et al. 2017)",
    ),
    *(
        Run(f"omniglot_20way_1shot_{name}", preset="omniglot_20way_1shot", flags=flags)
        for name, flags in _ABLATION.items()
    ),
    Run(
        "omniglot_20way_1shot_usual_long",
        preset="omniglot_20way_1shot",
        flags=_USUAL,
        published="91 to 94 (re-implementations)",
    ),
    Run("omniglot_20way_1shot_anil", published="96.2 (Raghu et al. 2020)"),
    Run(
        "omniglot_20way_1shot_maml_plus_plus",
        published="97.65 (Antoniou et al. 2019)",
    ),
    Run(
        "omniglot_5way_1shot_protonet",
        tests=_MORE_WAYS,
        published="98.8 (Snell et al. 2017)",
        published_tests={"20-way": "96.0"},
    ),
    Run(
        "omniglot_5way_1shot_protonet_support",
        preset="omniglot_5way_1shot_protonet",
        flags=("--normalization=support",),
        tests=_MORE_WAYS,
    ),
    Run(
        "omniglot_5way_1shot_protonet_long",
        preset="omniglot_5way_1shot_protonet",
        flags=_LONGER_PROTONET,
        tests=_MORE_WAYS,
        published="98.8 (likewise)",
        published_tests={"20-way": "96.0"},
    ),
    Run(
        "omniglot_5way_5shot_protonet",
        flags=_LONGER_PROTONET,
        tests=_MORE_WAYS,
        published="99.7 (likewise)",
        published_tests={"20-way": "98.9"},
    ),
    Run(
        "omniglot_5way_1shot_r2d2_long",
        preset="omniglot_5way_1shot_r2d2",
        flags=(*_LONGER_PROTONET, "--normalization=group"),
    ),
    *(
        Run(f"omniglot_5way_1shot_{learner}", tests=_MORE_WAYS, published=published)
        for learner, published in {
            "r2d2": "-",
            "metaoptnet": "-",
            "matching_net": "98.1 (Vinyals et al. 2016)",
            "relation_net": "-",
        }.items()
    ),
    Run(
        "omniglot_5way_1shot_matching_net_60way",
        preset="omniglot_5way_1shot_matching_net",
        flags=("--ways=60", "--num_tasks=1"),
        tests=_MORE_WAYS,
    ),
    Run("omniglot_5way_1shot_snail"),
    Run("cifar_fs_5way_1shot_protonet", tests=_FIVE_SHOTS, published="55.5"),
    Run("cifar_fs_5way_1shot_r2d2", tests=_FIVE_SHOTS, published="62.3"),
    Run(
        "cifar_fs_5way_1shot_maml",
        flags=("--queries=15", "--num_steps=10000", "--num_test_tasks=600"),
        published="58.9",
    ),
    Run("cifar_fs_5way_1shot_baseline", flags=("--num_steps=6000",), tests=_FIVE_SHOTS),
    *(
        Run(
            f"cifar_fs_5way_1shot_{learner}_{normalization}",
            preset=f"cifar_fs_5way_1shot_{learner}",
            flags=(*_LONGER_CIFAR_FS, f"--normalization={normalization}"),
            tests=_FIVE_SHOTS if normalization == "group" else {},
            published=one_shot,
            published_tests={"5-shot": five_shot},
        )
        for learner, one_shot, five_shot in (
            ("protonet", "55.5", "72.0"),
            ("r2d2", "62.3", "77.4"),
        )
        for normalization in ("group", "support")
    ),
    *(
        Run(
            f"clinc150_5way_1shot_{learner}_{fold}",
            preset=f"clinc150_5way_1shot_{learner}",
            flags=(f"--clinc_fold={fold}",),
            tests=_FIVE_SHOTS,
        )
        for learner in ("floor", "bag", "maml", "in_context")
        for fold in ("01", "02", "03", "04", "05")
    ),
    Run("mnist_permuted"),
    Run("mnist_permuted_1shot"),
    Run("mnist_pretrained"),
    Run("mnist_pretrained_1shot"),
    Run("mnist_random_init"),
    Run("mnist_random_init_1shot"),
    *(
        Run(f"mnist_permuted{shots}_{learner}")
        for learner in ("in_context", "hypernetwork", "protonet")
        for shots in ("", "_1shot")
    ),
    Run("mnist_rotations"),
    Run("glyphs_5way_1shot"),
]

_RUN = flags.DEFINE_list("run", [], "Runs to make, by the names in the table.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS data directory.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/reproduce", "Where runs are written.")

flags.register_validator(
    "run",
    lambda names: set(names) <= {run.name for run in RUNS},
    message=f"choose among {', '.join(run.name for run in RUNS)}",
)


def execute(run: Run, seed: int, workdir: Path, data_dir: str | None) -> None:
    """Runs one preset with one seed, and keeps what it found."""
    where = workdir / f"{run.name}-{seed}"
    if not (where / "result.json").exists():
        command = [sys.executable, "-m", "experiments.few_shot"]
        command += [f"--flagfile=experiments/presets/{run.preset or run.name}.flags"]
        command += [*run.flags, f"--seed={seed}", f"--workdir={where}"]
        command += [f"--data_dir={data_dir}"] if data_dir else []
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            sys.exit(code)  # The run has said why.
    tests = run.tests | {
        f"shots-{shots}": (f"--eval_shots={shots}", f"--eval_queries={shots}")
        for shots in run.shots
    }
    for name, changes in tests.items():
        _test(where, name, changes)
    kept = RESULTS / where.name
    kept.mkdir(parents=True, exist_ok=True)
    for name in (*KEPT, *(f"{name}.json" for name in tests)):
        text = (where / name).read_text()
        # Where this machine keeps things is nobody's business.
        for place in filter(None, (data_dir, str(workdir))):
            text = text.replace(place, "DIR")
        (kept / name).write_text(text)


def _test(where: Path, name: str, changes: tuple[str, ...]) -> None:
    """Tests a finished run on other tasks."""
    found = where / f"{name}.json"
    if found.exists():
        return
    for left_over in where.glob("eval*"):  # Of a test that was cut off.
        left_over.unlink()
    command = [sys.executable, "-m", "experiments.few_shot", "--eval_only"]
    command += [f"--workdir={where}", *changes]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        sys.exit(code)
    (result,) = where.glob("eval*.json")
    result.rename(found)


def table() -> str:
    """The kept results as the README's table; one line a preset and seed."""
    lines = [
        "| preset | seed | after n inner steps, 95% interval over 600 tasks | "
        "published | outer steps | minutes | device | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in RUNS:
        for seed in run.seeds:
            kept = RESULTS / f"{run.name}-{seed}"
            if not kept.exists():
                continue
            lines.append(_line(run, seed, kept))
            for name in run.tests:
                lines.append(_line(run, seed, kept, name))
    return "\n".join(lines)


def _line(run: Run, seed: int, kept: Path, test: str = "result") -> str:
    result = json.loads((kept / f"{test}.json").read_text())
    published = run.published
    if test != "result":
        published = run.published_tests.get(test, "-")
    starts = (kept / "starts.jsonl").read_text().splitlines()
    starts = [json.loads(start) for start in starts]
    devices = [start["device"].partition(", ")[2] for start in starts]
    commits = [str(start["commit"]) for start in starts]
    cells = [
        f"`{run.name}`" + f", {test}" * (test != "result"),
        str(seed),
        ", ".join(map(_cell, result["rows"])),
        published,
        f"{result['best_step']} of {result['steps']}",
        f"{result['train_seconds'] / 60:.0f}",
        ", ".join(dict.fromkeys(device.replace("cpu", "CPU") for device in devices)),
        ", ".join(dict.fromkeys(commit[:7] + commit[12:] for commit in commits)),
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
    for log in sorted(RESULTS.glob("omniglot*/metrics.jsonl")):
        metrics = [json.loads(line) for line in log.read_text().splitlines()]
        for level in levels:
            for line in metrics:
                if line.get("validation/accuracy", 0) >= level:
                    lines.append(
                        f"{log.parent.name} passed {level:.0%} on validation tasks "
                        f"after {line['step']} steps, {line['seconds'] / 60:.0f} minutes."
                    )
                    break
    return lines


def misses() -> list[str]:
    """The targets that kept results do not reach, or that were not run."""
    lines = []
    for run in RUNS:
        for seed in run.seeds if run.targets else ():
            path = RESULTS / f"{run.name}-{seed}" / "result.json"
            if not path.exists():
                lines.append(f"{run.name}, seed {seed}: not run.")
                continue
            rows = json.loads(path.read_text())["rows"]
            by_steps = {row["inner_steps"]: row for row in rows}
            for (steps, name), (low, high) in run.targets.items():
                mean = by_steps[steps][name]["mean"]
                if mean is None or not low <= mean <= high:
                    lines.append(
                        f"{run.name}, seed {seed}: {name} after {steps} inner steps is "
                        f"{mean}, not {low} to {high}."
                    )
    return lines


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    for run in RUNS:
        if run.name in _RUN.value:
            for seed in run.seeds:
                execute(run, seed, Path(_WORKDIR.value), _DATA_DIR.value)
    missed = misses()
    print("\n".join([table(), "", *passed(), ""]))
    print("\n".join(missed) if missed else "Every target is reached.")
    sys.exit(bool(missed))


if __name__ == "__main__":
    app.run(main)
