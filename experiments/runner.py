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
from metajax import checkpoints, trees

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
            workdirs.check_saved(workdir)
        else:
            locked = processes.on_first(workdirs.check, config, workdir, held)
        experiment, progress = building.build(config)
        saved = _restore(config, workdir, progress)
        if config.eval_only and saved is None:
            raise ValueError(f"{workdir} has no checkpoint to evaluate yet.")
        if saved:
            progress = saved.tree
        elif config.initial_params:
            progress = building.start_from_file(config, progress.state)
        # Finds what cannot be differentiated, before it is compiled or anything written.
        program = building.trace(config, experiment, progress.state)
        if not config.eval_only:
            processes.on_first(workdirs.claim, config, workdir, held, locked)
            processes.on_first(workdirs.write_record, workdir, device)
    except (ValueError, OSError, mj.data.DataError) as error:
        if processes.is_loss_of_peer(error):
            raise
        print(f"Error: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    logging.info("%s, %d parameters", device, trees.size(progress.best))
    if config.eval_only:
        _evaluate_again(config, workdir, experiment, progress)
        return 0
    if int(progress.state.step) < config.num_steps:
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

    def restore():
        like = processes.local(progress)
        directory = workdir / "checkpoints"
        return checkpoints.restore(directory, like, fingerprint=fingerprint)

    saved = processes.on_first(restore)
    if not processes.share(np.int32(saved is not None)):
        return None
    saved = saved or checkpoints.Checkpoint(0, progress, None)
    tree = building.place(config, processes.share(saved.tree))
    step = int(tree.state.step)
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
    """Tests the best parameters, and writes the table, every value, and pictures."""
    results = _test(config, experiment, progress)
    if not processes.is_first():
        return
    from experiments import pictures

    best = processes.local(progress.best)
    if not config.num_steps:  # Else training has drawn them.
        draw_tasks(experiment, workdir)
    summary = _summary(config, progress, results)
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
    trees.save(workdir / "best.npz", best)
    _write(workdir, "result", summary, results)


def _evaluate_again(config, workdir, experiment, progress) -> None:
    """Tests a saved run, under a name that says which of its flags were changed."""
    changed = workdirs.differences(config, workdir)
    results = _test(config, experiment, progress)
    if not processes.is_first():
        return
    summary = _summary(config, progress, results) | {"changed": changed}
    name = hashlib.blake2b("\n".join(changed).encode(), digest_size=4).hexdigest()
    _write(workdir, f"eval-{name}" if changed else "eval", summary, results)


def _test(config, experiment, progress) -> dict[int, mj.Evaluation]:
    return {
        num_steps: mj.evaluate(
            objective,
            progress.best,
            experiment.problem.test,
            key=jax.random.key(_TEST_SEED),
            num_tasks=config.num_test_tasks,
            tasks_per_chunk=config.eval_tasks_per_chunk,
        )
        for num_steps, objective in experiment.objectives.items()
    }


def _summary(config, progress, results: dict[int, mj.Evaluation]) -> dict:
    """What the result's files say, but for every task's values."""
    return {
        "seed": config.seed,
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
    """Prints the table, and writes it as text and JSON, and every task's values."""
    table = _table(summary)
    print(table)
    values = {
        f"{name}_{num_steps}": values
        for num_steps, result in results.items()
        for name, values in result.values.items()
    }
    np.savez(workdir / f"{stem}.npz", tasks_hash=summary["tasks_hash"], **values)
    (workdir / f"{stem}.txt").write_text(table + "\n")
    # Last, since result.json says that the run is finished.
    # JSON has no NaN: what is not finite becomes null.
    summary = json.loads(json.dumps(summary), parse_constant=lambda _: None)
    text = json.dumps(summary, indent=1) + "\n"
    workdirs.write_whole(workdir / f"{stem}.json", text)


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
