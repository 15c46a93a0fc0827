"""One run from top to bottom: build, train, choose on validation tasks, report."""

import hashlib
import json
from pathlib import Path
import sys
import time

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import building, choices, planning, startup, workdirs
from experiments.building import Progress
import metajax as mj
from metajax import checkpoints, logs, trees

BAD_CONFIGURATION, NON_FINITE, OUT_OF_MEMORY = 2, 3, 4  # Exit codes.

# Relative residuals above which a run warns.
_FAR_FROM_REST, _POORLY_SOLVED = 0.1, 0.1

# The tasks that every run with the same data, ways, shots and queries is judged on.
_VALIDATION_SEED, _TEST_SEED = 1_000_001, 1_000_002


def run(config, started: float | None = None) -> int:
    """Does what the flags say, and returns the exit code.

    Args:
      config: the flags.
      started: when the command began, by `time.time`; now if None.
    """
    clock = startup.Clock(started or time.time())
    logs.hide_checkpoint_chatter()
    startup.use_cache(config.compilation_cache)
    try:
        return _run(config, clock)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not planning.is_out_of_memory(error):
            raise
        print(planning.advice(config, error), file=sys.stderr)
        return OUT_OF_MEMORY


def _run(config, clock: startup.Clock) -> int:
    workdir = Path(config.workdir or "")
    try:
        device = _select_platform(config.platform)
        if config.dry_run:
            planning.dry_run(config, device)
            return 0
        if config.eval_only:
            workdirs.adopt_flags(config, workdir)
        else:
            workdirs.check(config, workdir)
        experiment, progress = building.build(config)
        saved = checkpoints.restore(workdir / "checkpoints", progress)
        if config.eval_only and saved is None:
            raise ValueError(f"{workdir} has no checkpoint to evaluate yet.")
        if saved:
            progress = building.place(config, saved)
        elif config.initial_params:
            progress = building.start_from_file(config, progress.state)
        # Finds what cannot be differentiated, before it is compiled or anything written.
        program = building.trace(config, experiment, progress.state)
        if not config.eval_only:
            workdirs.claim(config, workdir)
    except (ValueError, OSError, mj.data.DataError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    logging.info("%s, %d parameters", device, trees.size(progress.best))
    if config.eval_only:
        _evaluate_again(config, workdir, experiment, progress)
        return 0
    workdirs.write_record(workdir, device)
    if int(progress.state.step) < config.num_steps:
        planning.check_memory(program.lower().compile(), config)
    progress, finished = train(config, workdir, experiment, progress, clock)
    checkpoints.save(workdir / "checkpoints", int(progress.state.step), progress)
    if not finished:
        return NON_FINITE
    _report(config, workdir, experiment, progress)
    return 0


def _select_platform(name: str) -> str:
    """Makes JAX use the platform asked for, or says that it is not there.

    JAX itself takes the best platform it finds, and falls back silently.
    """
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
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
    return f"{len(devices)} {found} device(s), {devices[0].device_kind}"


# Train


def train(
    config,
    workdir: Path,
    experiment: building.Experiment,
    progress: Progress,
    clock: startup.Clock,
) -> tuple[Progress, bool]:
    """Trains to the last step; False where loss or gradient stopped being finite."""
    step = int(progress.state.step)
    metric_log = logs.MetricLog(workdir, step)
    with (
        logs.progress_bar(config.num_steps, step) as bar,
        checkpoints.background(workdir / "checkpoints") as save,
    ):
        while step < config.num_steps:
            num_steps = building.steps_ahead(config, step)
            progress, metrics = _advance(config, experiment, progress, num_steps)
            if int(progress.state.step) < step + num_steps:
                _explain_non_finite(config, progress.state, metrics)
                return progress, False
            step += num_steps
            means = {name: np.mean(values) for name, values in metrics.items()}
            if clock.runs:
                seconds = config.num_tasks * num_steps / means["tasks_per_second"]
                logging.info(clock.stop(seconds, num_steps))
                _draw_tasks(experiment, workdir)
            _warn_of_residuals(means)
            validates = step % config.eval_every_steps == 0 or step == config.num_steps
            if validates:
                progress, scores = _validate(config, experiment, progress)
                means |= scores | _mean_rates(config, progress.state.meta)
            # The line first: one without its checkpoint is dropped when resumed.
            metric_log.write(step, means)
            if validates:
                save(step, progress)
            bar.update(num_steps)
            rate = f"{means['tasks_per_second']:.0f}"
            bar.set_postfix({"loss": f"{means['train/loss']:.4f}", "tasks/s": rate})
    metric_log.close()
    return progress, True


def _warn_of_residuals(means: dict[str, float]) -> None:
    """Says where implicit differentiation assumes what is not so."""
    left = means.get("train/inner_gradient", 0.0)
    if left > _FAR_FROM_REST:
        logging.log_first_n(
            logging.WARNING,
            "--adjoint=implicit takes the inner loop to have come to rest, but %.2g of "
            "the gradient is left after it: the meta-gradient may be far off. Take more "
            "--inner_steps, a larger --inner_rate or --regularization.",
            1,
            left,
        )
    residual = means.get("train/solver_residual", 0.0)
    if residual > _POORLY_SOLVED:
        logging.log_first_n(
            logging.WARNING,
            "the solver of --adjoint=implicit leaves a relative residual of %.2g: take "
            "more --solver_iterations or some --damping.",
            1,
            residual,
        )


def _draw_tasks(experiment, workdir) -> None:
    from experiments import pictures  # Not earlier: matplotlib takes long to import.

    pictures.task_sheet(experiment.problem.train, workdir / "tasks.png")


def _advance(config, experiment, progress, num_steps) -> tuple[Progress, dict]:
    """Takes outer steps; the metrics are one value a step."""
    started = time.perf_counter()
    state, metrics = mj.train(
        experiment.step,
        progress.state,
        experiment.problem.train,
        num_tasks=config.num_tasks,
        num_steps=num_steps,
    )
    metrics = {f"train/{name}": v for name, v in jax.device_get(metrics).items()}
    seconds = time.perf_counter() - started
    progress = progress._replace(state=state, seconds=progress.seconds + seconds)
    return progress, metrics | {
        "seconds": float(progress.seconds),
        "tasks_per_second": config.num_tasks * num_steps / seconds,
    }


def _validate(config, experiment, progress) -> tuple[Progress, dict[str, float]]:
    """Scores the parameters on the validation tasks, and keeps the best ones."""
    results = [
        mj.evaluate(
            experiment.objectives[num_steps],
            progress.state.meta,
            experiment.problem.validation,
            key=jax.random.key(_VALIDATION_SEED),
            num_tasks=config.num_validation_tasks,
            tasks_per_chunk=config.eval_tasks_per_chunk,
        )
        for num_steps in choices.select_inner_steps(config)
    ]
    means = {
        f"validation/{name}": np.mean([result.values[name] for result in results])
        for name in results[0].values
    }
    score = means.get("validation/accuracy", -means["validation/loss"])
    score = np.nan_to_num(score, nan=-np.inf)
    if score >= progress.best_score:
        progress = progress._replace(
            best=jax.tree.map(jnp.copy, progress.state.meta),
            best_step=progress.state.step.copy(),
            best_score=jnp.float32(score),
        )
    text = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    logging.info("step %d: %s", int(progress.state.step), text)
    return progress, means


def _mean_rates(config, meta) -> dict[str, float]:
    """The mean of the learned inner rates of each leaf (and step), if there are any."""
    rates = jax.device_get(getattr(meta, "rates", None))
    if "rates" in config.per_step:
        rates = jax.tree.map(list, rates)
    names = [f"rates/{path}".rstrip("/") for path in trees.leaf_paths(rates)]
    return dict(zip(names, map(float, map(np.mean, jax.tree.leaves(rates)))))


def _explain_non_finite(config, state, metrics) -> None:
    loss, grad_norm = metrics["train/loss"], metrics["train/grad_norm"]
    bad = -1  # Training does not go past such a step.
    solver = ""
    if "train/solver_residual" in metrics:
        residual = metrics["train/solver_residual"][bad]
        solver = (
            f"; the solver left a residual of {residual:.2g}, which --damping, a larger "
            "--regularization or --solver=gmres may mend"
        )
    print(
        f"Error: step {int(state.step)} of seed {config.seed} has meta-loss {loss[bad]} "
        f"and gradient norm {grad_norm[bad]}; the state before it is saved. Start anew "
        "in another --workdir, with a smaller --inner_rate or --outer_rate, or fewer "
        f"--inner_steps{solver}.",
        file=sys.stderr,
    )


# Report


def _report(config, workdir, experiment, progress) -> None:
    """Tests the best parameters, and writes the table, every value, and pictures."""
    from experiments import pictures

    if not config.num_steps:  # Else training has drawn them.
        _draw_tasks(experiment, workdir)
    results = _test(config, experiment, progress)
    summary = _summary(config, progress, results)
    pictures.curves(workdir / "metrics.jsonl", workdir / "curves.png")
    if len(results) > 1:  # Else there are no inner steps to draw it against.
        pictures.adaptation(results, workdir / "result.png")
    if getattr(progress.best, "rates", None) is not None:
        draw = pictures.rates_by_step if "rates" in config.per_step else pictures.rates
        draw(progress.best.rates, workdir / "rates.png")
    if isinstance(experiment.problem.test, mj.data.Sinusoid):
        picture = workdir / "predictions.png"
        test = experiment.problem.test
        pictures.regression(experiment.learners, progress.best, test, picture)
    if "accuracy" in experiment.problem.metrics:
        learner = experiment.learners[max(choices.eval_inner_steps(config))]
        embedding = building.embedding(config, experiment.problem)
        picture, test = workdir / "task.png", experiment.problem.test
        pictures.classification(learner, embedding, progress.best, test, picture)
    trees.save(workdir / "best.npz", progress.best)
    _write(workdir, "result", summary, results)


def _evaluate_again(config, workdir, experiment, progress) -> None:
    """Tests a saved run, under a name that says which of its flags were changed."""
    changed = workdirs.differences(config, workdir)
    results = _test(config, experiment, progress)
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
    (workdir / f"{stem}.json").write_text(json.dumps(summary, indent=1) + "\n")


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
