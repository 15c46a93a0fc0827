"""One run from top to bottom: build, train, choose on validation tasks, report."""

import contextlib
import errno
import hashlib
import json
from pathlib import Path
import sys
import time

from absl import logging
import jax
import numpy as np

from experiments import building, choices, planning, processes, startup, workdirs
from experiments.building import Progress
from experiments.loop import NonFinite, Since, draw_tasks, train
from experiments.signals import Signals, Stopped
import metajax as mj
from metajax import checkpoints, logs, trees

# Exit codes, beside processes.LOST_PEER, and 128 and its number for a signal.
BAD_CONFIGURATION, NON_FINITE, OUT_OF_MEMORY, UNWRITABLE = 2, 3, 4, 5

_UNWRITABLE_FOR = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)

# The tasks that every run with the same data, ways, shots and queries is judged on.
_TEST_SEED = 1_000_002


def run(config, started: float | None = None) -> int:
    """Does what the flags say, and returns the exit code.

    Args:
      config: the flags.
      started: when the command began, by `time.time`; now if None.
    """
    clock = startup.Clock(started or time.time())
    startup.use_cache(config.compilation_cache)
    with Signals() as signals, contextlib.ExitStack() as held:
        try:
            code = _run(config, clock, signals, held)
        except (Exception, Stopped) as error:
            code = _explained(config, error)
            if code is None:
                processes.leave_after(error)
                raise
    return processes.leave(code)


def _explained(config, error: BaseException) -> int | None:
    """Says in one line what has ended the run; the exit code, or None if it is a bug."""
    if isinstance(error, Stopped):
        print(f"Stopped by {error}: the same command goes on.", file=sys.stderr)
        return error.exit_code
    if isinstance(error, NonFinite):
        print(f"Error: {error}", file=sys.stderr)
        return NON_FINITE
    if planning.is_out_of_memory(error):
        print(planning.advice(config, error), file=sys.stderr)
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in _UNWRITABLE_FOR:
        print(
            f"Error: {error.filename or config.workdir} cannot be written: "
            f"{error.strerror}. What was saved before is whole: make room, or keep fewer "
            "--keep_checkpoints; the same command goes on.",
            file=sys.stderr,
        )
        return UNWRITABLE
    return None


def _run(
    config, clock: startup.Clock, signals: Signals, held: contextlib.ExitStack
) -> int:
    workdir = Path(config.workdir or "")
    try:
        device = _select_platform(config)
        if config.dry_run:
            planning.dry_run(config, device)
            return 0
        if config.eval_only:
            workdirs.check_saved(config, workdir)
        else:
            locked = processes.on_first(workdirs.check, config, workdir, held)
        experiment, progress = building.build(config)
        saved = _restore(config, workdir, progress)
        if config.eval_only and saved is None:
            raise ValueError(f"{workdir} has no checkpoint to evaluate yet.")
        if saved:
            progress = saved.tree
        elif config.initial_params:
            progress = building.start_from_file(config, progress)
        # Finds what cannot be differentiated, before it is compiled or anything written.
        program = building.trace(config, experiment, progress.state)
        if not config.eval_only:
            processes.on_first(workdirs.claim, config, workdir, held, locked)
            processes.on_first(workdirs.write_record, workdir, device)
    except (ValueError, OSError, ImportError, mj.data.DataError) as error:
        if processes.is_loss_of_peer(error):
            raise
        print(f"Error: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    size = trees.size(progress.best) // config.num_seeds
    logging.info("%s, %d parameters", device, size)
    if config.eval_only:
        _evaluate_again(config, workdir, experiment, progress)
        return 0
    if np.asarray(progress.state.step).min() < config.num_steps:
        planning.check_memory(program.lower().compile(), config)
    since = Since(**saved.notes) if saved and saved.notes else Since()
    progress = train(config, workdir, experiment, progress, since, clock, signals)
    signals.check()
    _report(config, workdir, experiment, progress)
    return 0


def _restore(
    config, workdir: Path, progress: Progress
) -> checkpoints.Checkpoint | None:
    """The newest checkpoint, which the first process reads for all."""
    fingerprint = {} if config.eval_only else workdirs.fingerprint(config)
    like = processes.local(progress)

    def restore():
        directory = workdir / "checkpoints"
        return checkpoints.restore(directory, like, fingerprint=fingerprint)

    saved = processes.on_first(restore)
    if not processes.share(np.int32(saved is not None)):
        return None
    saved = saved or checkpoints.Checkpoint(0, like, None)
    tree = building.place_progress(config, processes.share(saved.tree))
    step = int(np.asarray(tree.state.step).min())
    logging.info("going on from step %d", step)
    notes = processes.share_json(saved.notes)
    return checkpoints.Checkpoint(step, tree, notes)


def _select_platform(config) -> str:
    """Makes JAX use the platform asked for, or says that it is not there.

    JAX itself takes the best platform it finds, and falls back silently.
    """
    name = config.platform
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    processes.join(config)
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX's own setting asks too much.
        raise ValueError(
            f"JAX_PLATFORMS={jax.config.jax_platforms} is not to be had here: unset it."
        ) from error
    found = devices[0].platform
    if name not in ("auto", found):
        raise ValueError(
            f"--platform={name} was asked for, but JAX finds only {found} here: install "
            "the JAX that supports it, or use --platform=auto."
        )
    number = f"{jax.process_count()} processes, " if processes.are_several() else ""
    return f"{number}{len(devices)} {found} device(s), {devices[0].device_kind}"


# Report


def _report(config, workdir, experiment, progress) -> None:
    """Tests the best parameters, and writes tables, every value, and pictures."""
    if not config.num_steps:  # Else training has drawn them.
        draw_tasks(experiment, workdir)
    _test_each(config, workdir, experiment, progress, "result", finish=_finish)


def _evaluate_again(config, workdir, experiment, progress) -> None:
    """Tests a saved run, under a name that says which of its flags were changed."""
    changed = workdirs.differences(config, workdir)
    name = hashlib.blake2b("\n".join(changed).encode(), digest_size=4).hexdigest()
    stem = f"eval-{name}" if changed else "eval"
    _test_each(config, workdir, experiment, progress, stem, changed=changed)


def _test_each(
    config, workdir, experiment, progress, stem: str, finish=None, **more
) -> None:
    """Tests the best parameters of each seed, and writes what was found."""
    each = building.each_seed(config, progress)
    directories = workdirs.of_seeds(config, workdir)
    summaries = []
    for seed, directory, one in zip(choices.seeds(config), directories, each):
        results, best = _test(config, experiment, one), processes.local(one.best)
        if not processes.is_first():
            continue
        if finish:
            finish(config, directory, experiment, best, results)
        summaries.append(_summary(config, seed, one, results) | more)
        _write(directory, stem, summaries[-1], results)
    if config.num_seeds > 1:
        _write_over_seeds(workdir, stem, summaries)
    if processes.is_first():
        print((workdir / f"{stem}.txt").read_text(), end="")


def _finish(config, workdir, experiment, best, results) -> None:
    """Saves the best parameters of one seed, and draws what came of them."""
    from experiments import pictures

    trees.save(workdir / "best.npz", best)
    pictures.curves(workdir / "metrics.jsonl", workdir / "curves.png")
    if len(results) > 1:  # Else there are no inner steps to draw it against.
        pictures.adaptation(results, workdir / "result.png")
    if getattr(best, "rates", None) is not None:
        draw = pictures.rates_by_step if "rates" in config.per_step else pictures.rates
        draw(best.rates, workdir / "rates.png")
    if isinstance(experiment.problem.test, mj.data.Sinusoid):
        picture = workdir / "predictions.png"
        test = experiment.problem.test
        pictures.regression(experiment.learners, best, test, picture)
    if "accuracy" in experiment.problem.metrics:
        learner = experiment.learners[max(choices.eval_inner_steps(config))]
        embedding = building.embedding(config, experiment.problem)
        picture, test = workdir / "task.png", experiment.problem.test
        pictures.classification(learner, embedding, best, test, picture)


def _test(config, experiment, progress) -> dict[int, mj.Evaluation]:
    number, results = config.num_test_tasks, {}
    total = number * len(experiment.objectives)
    with processes.only_first(logs.progress_bar, total, unit="task") as bar:
        for num_steps, objective in experiment.objectives.items():
            logging.info("testing on %d tasks, %d inner steps", number, num_steps)
            results[num_steps] = mj.evaluate(
                objective,
                progress.best,
                experiment.problem.test,
                key=jax.random.key(_TEST_SEED),
                num_tasks=number,
                tasks_per_chunk=config.eval_tasks_per_chunk,
                report=bar.update,
            )
    return results


def _summary(config, seed: int, progress, results: dict[int, mj.Evaluation]) -> dict:
    """What the result's files say of one seed, but for every task's values."""
    return {
        "seed": seed,
        "tasks_hash": results[0].tasks_hash,
        "num_tasks": config.num_test_tasks,
        "best_step": int(progress.best_step),
        "steps": int(progress.state.step),
        "train_seconds": round(float(progress.seconds), 1),
        "rows": _rows(results),
    }


def _rows(results: dict[int, mj.Evaluation]) -> list[dict]:
    """Summaries by number of inner steps.

    A task counts as diverged if its loss is not finite, or larger than that of every
    task before adaptation.
    """
    worst_before = np.nanmax(results[0].values["loss"])
    return [
        {
            "inner_steps": num_steps,
            "diverged": int(np.sum(~(result.values["loss"] <= worst_before))),
            **{k: mj.summarize(v)._asdict() for k, v in result.values.items()},
        }
        for num_steps, result in results.items()
    ]


def _write(
    workdir, stem: str, summary: dict, results: dict[int, mj.Evaluation]
) -> None:
    """Writes the table as text and JSON, and every task's values."""
    values = {
        f"{name}_{num_steps}": values
        for num_steps, result in results.items()
        for name, values in result.values.items()
    }
    np.savez(workdir / f"{stem}.npz", tasks_hash=summary["tasks_hash"], **values)
    (workdir / f"{stem}.txt").write_text(_table(summary) + "\n")
    # Last, since result.json says that the run is finished.
    _write_json(workdir / f"{stem}.json", summary)


def _write_json(path: Path, summary: dict) -> None:
    # JSON has no NaN: what is not finite becomes null.
    summary = json.loads(json.dumps(summary), parse_constant=lambda _: None)
    workdirs.write_whole(path, json.dumps(summary, indent=1) + "\n")


def _write_over_seeds(workdir, stem: str, summaries: list[dict]) -> None:
    """Writes how much the means over tasks differ from seed to seed."""
    metric = "accuracy" if "accuracy" in summaries[0]["rows"][0] else "loss"
    seeds = [summary["seed"] for summary in summaries]
    lines = [
        f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}: {metric} over tasks, by seed",
        "inner steps      mean       std    lowest   highest",
    ]
    rows = []
    for each in zip(*[summary["rows"] for summary in summaries]):
        means = np.array([row[metric]["mean"] for row in each])
        with np.errstate(invalid="ignore"):  # inf - inf, where a task diverges.
            found = np.mean(means), np.std(means, ddof=1), np.min(means), np.max(means)
        found = dict(zip(("mean", "std", "lowest", "highest"), map(float, found)))
        rows.append({"inner_steps": each[0]["inner_steps"], metric: found})
        lines.append(f"{rows[-1]['inner_steps']:11d}" + _columns(found, metric))
    (workdir / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    same = ("num_tasks", "tasks_hash", "steps", "train_seconds", "changed")
    summary = {name: summaries[0][name] for name in same if name in summaries[0]}
    _write_json(workdir / f"{stem}.json", {"seeds": seeds, **summary, "rows": rows})


def _columns(found: dict[str, float], metric: str) -> str:
    if metric == "accuracy":
        return "".join(f"{100 * value:9.2f}%" for value in found.values())
    return "".join(f"{_short(value):>10s}" for value in found.values())


def _table(summary: dict) -> str:
    """The result as text: one row a number of inner steps."""
    accuracy = "accuracy" in summary["rows"][0]
    last = "" if accuracy else "  diverged"
    lines = [
        f"{summary['num_tasks']} unseen tasks ({summary['tasks_hash']}), parameters of "
        f"step {summary['best_step']} of {summary['steps']}",
        "inner steps"
        + "     accuracy (95%)" * accuracy
        + "        loss (95%)    median"
        + last,
    ]
    for row in summary["rows"]:
        line = f"{row['inner_steps']:11d}"
        if accuracy:
            each = row["accuracy"]
            line += f"{100 * each['mean']:9.2f} +- {100 * each['interval']:4.2f}%"
        mean, interval, median = map(_short, list(row["loss"].values())[:3])
        line += f" {mean:>8s} +- {interval:5s}{median:>10s}"
        lines.append(line if accuracy else line + f"{row['diverged']:10d}")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:.1e}"
