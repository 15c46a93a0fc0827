"""The end of a run: the chosen parameters on unseen tasks, as tables and pictures."""

from collections.abc import Callable
from functools import partial
import hashlib
import json
from pathlib import Path
import shlex

import numpy as np

from experiments.running import devices, measuring, processes, workdirs
from experiments.running.experiment import Experiment
from experiments.running.locks import Lock
from experiments.running.measuring import Measurement
from experiments.running.options import Options
from experiments.running.preparing import Prepared, Progress
from experiments.running.workdirs import Settings
from metajax import files, logs, trees, using
from metajax.base import MetaParams

Finish = Callable[[Path, MetaParams, Measurement], None]


def report(
    prepared: Prepared, options: Options, lock: Lock | None, progress: Progress
) -> None:
    """Tests the best parameters, and writes tables, every value, and pictures.

    Args:
      prepared: what was trained.
      options: how.
      lock: that of the directory, in the first process.
      progress: at the last step.

    Raises:
      OSError: if the directory cannot be written.
      locks.Lost: if it is no longer the run's own.
    """
    finish = partial(_finish, prepared.experiment, lock)
    _test_each(prepared, options, progress, "result", finish)
    if processes.is_first():
        print(next_steps(prepared.experiment, options), end="")


def next_steps(experiment: Experiment, options: Options) -> str:
    """What a finished run can be used for, as whole commands, a line each."""
    one = shlex.quote(str(workdirs.of_seeds(options)[0]))  # All but reports take one.
    lines = {
        "compare": f"python -m experiments.compare {one} OTHER",
        "report": f"python scripts/report.py {shlex.quote(str(options.workdir))}",
    }
    for name, command in experiment.next_steps.items():
        lines[name] = command.replace("DIR", one)
    width = max(map(len, lines))
    return "\nNext:\n" + "".join(f"  {k:{width}s}  {v}\n" for k, v in lines.items())


def evaluate_again(
    prepared: Prepared, options: Options, settings: Settings, progress: Progress
) -> None:
    """Tests a saved run, under a name that says which of its flags were changed."""
    changed = workdirs.differences(settings, options.workdir)
    name = hashlib.blake2b("\n".join(changed).encode(), digest_size=4).hexdigest()
    stem = f"eval-{name}" if changed else "eval"
    _test_each(prepared, options, progress, stem, changed=changed)


def _test_each(
    prepared: Prepared,
    options: Options,
    progress: Progress,
    stem: str,
    finish: Finish | None = None,
    **more,
) -> None:
    """Tests the best parameters of each seed, and writes what was found."""
    each = devices.each_seed(prepared.devices, progress)
    directories = workdirs.of_seeds(options)
    experiment, summaries = prepared.experiment, []
    for seed, directory, one in zip(options.seeds, directories, each):
        found, best = _test(experiment, one), processes.local(one.best)
        if not processes.is_first():
            continue
        if finish:
            finish(directory, best, found)
        summaries.append(_summary(experiment, seed, one, found) | more)
        _write(experiment, directory, stem, summaries[-1], found)
    if options.num_seeds > 1:
        summary, text = measuring.over_seeds(summaries, experiment.metric)
        files.write_text(options.workdir / f"{stem}.txt", text + "\n")
        _write_json(options.workdir / f"{stem}.json", summary)
    if processes.is_first():
        print((options.workdir / f"{stem}.txt").read_text(), end="")


def _finish(
    experiment: Experiment,
    lock: Lock,
    directory: Path,
    best: MetaParams,
    found: Measurement,
) -> None:
    """Saves the best parameters of one seed, and draws what came of them."""
    from experiments.running import pictures  # Matplotlib takes long to import.

    lock.make_sure()
    trees.save(directory / "best.npz", best, experiment.belongs_to)
    card = experiment.card(found)
    if card:
        files.write_text(directory / using.CARD, json.dumps(card, indent=1) + "\n")
    pictures.curves(directory / "metrics.jsonl", directory / "curves.png")
    if len(found.places) > 1:  # Else there is nothing to draw it against.
        pictures.along_axis(found, directory / "result.png")
    experiment.draw(best, found, directory)


def _test(experiment: Experiment, progress: Progress) -> Measurement:
    total = experiment.test.total
    with processes.only_first(logs.progress_bar, total, unit="task") as bar:
        return experiment.test(progress.best, bar.update)


def _summary(
    experiment: Experiment, seed: int, progress: Progress, found: Measurement
) -> dict:
    """What the result's files say of one seed, but for every task's values."""
    return {
        "seed": seed,
        "tasks_hash": found.tasks_hash,
        "num_tasks": len(next(iter(found.values.values()))),
        "best_step": int(progress.best_step),
        "steps": int(progress.state.step),
        "train_seconds": round(float(progress.seconds), 1),
        "metric": experiment.metric._asdict(),
        "axis": found.axis,
        "rows": experiment.rows(found),
    }


def _write(
    experiment: Experiment,
    directory: Path,
    stem: str,
    summary: dict,
    found: Measurement,
) -> None:
    """Writes the table as text and JSON, and every task's values."""
    values = {
        f"{name}_{place}": found.at(name, place)
        for place in found.places
        for name in found.values
    }
    table = experiment.table or partial(measuring.table, metric=experiment.metric)
    with files.whole(directory / f"{stem}.npz") as file:
        np.savez(file, tasks_hash=summary["tasks_hash"], **values)
    files.write_text(directory / f"{stem}.txt", table(summary) + "\n")
    # Last, since result.json says that the run is finished.
    _write_json(directory / f"{stem}.json", summary)


def _write_json(path: Path, summary: dict) -> None:
    # JSON has no NaN: what is not finite becomes null.
    summary = json.loads(json.dumps(summary), parse_constant=lambda _: None)
    files.write_text(path, json.dumps(summary, indent=1) + "\n")
