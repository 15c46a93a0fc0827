"""Learners on the same Omniglot tasks under one budget of minutes, side by side.

    python scripts/one_budget.py                               prints what was kept
    python scripts/one_budget.py --workdir=DIR --data_dir=DIR  trains all, keeps, draws

Each learner trains for as many minutes as the others: a short trial tells how many outer
steps that is, so that its schedule ends with them. One that was cut off goes on. Nothing
else should run on the machine. Data, network and normalisation are those of the preset
`omniglot_5way_1shot_protonet`, which every learner starts from.
"""

import argparse
import json
from pathlib import Path
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments import compare
from scripts import kept, starts

PRESET = "experiments/presets/omniglot_5way_1shot_protonet.flags"
FIRST = "protonet"  # Which others are held against, task by task.

_FIVE_WAYS = ("--ways=5", "--num_tasks=12")
_INNER = ("--ways=5", "--num_tasks=8", "--inner_rate=0.4")
_ONE_STEP = (*_INNER, "--eval_inner_steps=0,1,3", "--select_inner_steps=3")
# By name, what it changes in the preset.
LEARNERS = {
    FIRST: (),
    "matching_net": (),
    "relation_net": (),
    "r2d2": ("--nofinal_relu",),
    "meta_baseline": (),
    "metaoptnet": _FIVE_WAYS,
    "in_context": (*_FIVE_WAYS, "--reader=snail"),
    "maml": _ONE_STEP,
    "fomaml": (*_ONE_STEP, "--outer_rate=3e-3"),
    "anil": _ONE_STEP,
    "boil": _ONE_STEP,
    "meta_sgd": (*_ONE_STEP, "--inner_rate=0.01"),  # The default: it learns its own.
    "meta_curvature": _ONE_STEP,
    "maml_plus_plus": (
        *_INNER,
        "--inner_rate=0.1",
        "--inner_steps=5",
        "--per_step=rates,normalization",
        "--eval_inner_steps=0,1,5",
        "--select_inner_steps=5",
    ),
    "imaml": (
        *_INNER,
        "--inner_rate=0.1",
        "--inner_steps=16",
        "--solver=cg",
        "--solver_iterations=5",
        "--damping=22.0",
        "--regularization=2.0",
        "--eval_inner_steps=0,1,16",
        "--select_inner_steps=16",
    ),
    "reptile": (
        "--ways=5",
        "--num_tasks=5",
        "--shots=10",
        "--eval_shots=1",
        "--inner_optimizer=adam",
        "--inner_options=b1=0",
        "--inner_rate=1e-3",
        "--inner_batch=10",
        "--keep_inner_state",
        "--inner_steps=5",
        "--eval_inner_steps=0,5,50",
        "--select_inner_steps=50",
        "--outer_optimizer=sgd",
        "--outer_rate=1.0",
        "--outer_schedule=linear",
    ),
}
_TRIAL_STEPS, _LOG_EVERY = 60, 10
_VALIDATIONS = 10  # Of a run.
PATH = starts.ROOT / "experiments" / "results" / "benchmark" / "one_budget.json"


def asked(name: str) -> list[str]:
    """The flags of a learner's run, but for its length and data directory."""
    return [f"--flagfile={PRESET}", f"--learner={name}", *LEARNERS[name]]


def steps_of_budget(name: str, minutes: float, workdir: Path, *given: str) -> int:
    """How many outer steps a learner takes in the minutes, by a short trial."""
    where = workdir / f"{name}-trial"
    few = f"--num_steps={_TRIAL_STEPS}", f"--eval_every_steps={_TRIAL_STEPS}"
    few += "--num_validation_tasks=2", "--num_test_tasks=2"
    few += f"--log_every_steps={_LOG_EVERY}", f"--workdir={where}"
    if not (where / "result.json").exists():
        starts.start("few_shot", [*asked(name), *given, *few])
    lines = (where / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    per_step = np.median(np.diff(seconds)) / _LOG_EVERY  # The first compiles.
    return max(_VALIDATIONS, round(60 * minutes / float(per_step)))


def train(name: str, minutes: float, workdir: Path, *given: str) -> None:
    """Trains a learner for the minutes, or goes on with that.

    Args:
      name: the learner's.
      minutes: of training.
      workdir: the directory of all runs.
      *given: further flags, which change no result.
    """
    where = workdir / name
    if (where / "result.json").exists():
        return
    noted = workdir / f"{name}.steps"  # So that a run that goes on has as many.
    if not noted.exists():
        steps = steps_of_budget(name, minutes, workdir, *given)
        noted.write_text(str(steps // _VALIDATIONS * _VALIDATIONS))
    steps = int(noted.read_text())
    length = f"--num_steps={steps}", f"--eval_every_steps={steps // _VALIDATIONS}"
    length += (f"--log_every_steps={min(50, steps // _VALIDATIONS)}",)
    starts.start("few_shot", [*asked(name), *given, *length, f"--workdir={where}"])


def gather(workdir: Path, data_dir: str | None) -> dict[str, dict]:
    """What is kept of each finished run, and how far it is from the first."""
    found = {}
    places = [*filter(None, (data_dir, str(workdir)))]
    for name in LEARNERS:
        where = workdir / name
        if not (where / "result.json").exists():
            continue
        found[name] = kept.gather(where, "few_shot", places=places)._asdict()
        if name != FIRST and FIRST in found:
            each = [_of_tasks(workdir / k, found[k]) for k in (name, FIRST)]
            less, interval = compare.difference(*each, "accuracy")
            found[name]["less_the_first"] = {"mean": less, "95%": interval}
    return found


def _of_tasks(where: Path, run: dict) -> list:
    """A run's accuracies after its last inner step, under one name for all runs."""
    last = run["result"]["rows"][-1]["inner_steps"]
    return [
        each._replace(values={"accuracy": each.values[f"accuracy_{last}"]})
        for each in compare.load(where)
    ]


def table(found: dict[str, dict]) -> str:
    """A line for each learner, the best first."""
    heads = "learner", "after inner steps", "accuracy", f"less `{FIRST}`, paired"
    heads += "outer steps", "tasks a second", "minutes of training", "commit"
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    rows = {name: run["result"]["rows"][-1] for name, run in found.items()}
    for name in sorted(found, key=lambda k: -rows[k]["accuracy"]["mean"]):
        run, row = found[name], rows[name]
        rates = [rate for rate in run["curve"]["tasks_per_second"] if rate]
        cells = [
            f"`{name}`",
            str(row["inner_steps"]),
            _share(row["accuracy"]["mean"], row["accuracy"]["interval"]),
            _share(*run["less_the_first"].values()) if "less_the_first" in run else "-",
            str(run["result"]["steps"]),
            f"{np.median(rates):.3g}",
            f"{run['result']['train_seconds'] / 60:.1f}",
            ", ".join(dict.fromkeys(start["commit"][:7] for start in run["starts"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(mean: float, interval: float) -> str:
    return f"{100 * mean:.1f} +- {100 * interval:.1f}%"


def draw(found: dict[str, dict], path: Path) -> None:
    """Accuracy on validation tasks against minutes of training."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    colors = plt.cm.tab20(np.arange(len(found)))
    for (name, run), color in zip(found.items(), colors):
        points = zip(run["curve"]["seconds"], run["curve"]["validation/accuracy"])
        seconds, shares = np.array([x for x in points if None not in x]).T
        axes.plot(seconds / 60, 100 * shares, ".-", color=color, label=name)
    axes.set(xlabel="minutes of training", ylabel="accuracy on validation tasks, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Reads the command line, trains what is asked for, prints what is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, each")
    parser.add_argument("--workdir", type=Path, help="where runs are written")
    parser.add_argument("--data_dir", help="TFDS data directory")
    parser.add_argument("--only", nargs="+", choices=[*LEARNERS], default=[*LEARNERS])
    given = parser.parse_args()
    if given.minutes <= 0:
        parser.error(f"argument --minutes: must be positive, not {given.minutes:g}")
    if given.workdir:
        given.workdir.mkdir(parents=True, exist_ok=True)
        data = [f"--data_dir={given.data_dir}"] if given.data_dir else []
        for name in given.only:
            train(name, given.minutes, given.workdir, *data)
        found = gather(given.workdir, given.data_dir)
        kept.write(PATH, {"table": table(found).splitlines(), "found": found})
        draw(found, PATH.with_suffix(".png"))
    elif not PATH.exists():
        sys.exit("No results are kept yet: name a --workdir to train in.")
    print("\n".join(json.loads(PATH.read_text())["table"]))


if __name__ == "__main__":
    main()
