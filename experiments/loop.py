"""The training of a run: outer steps, a line now and then, validation, checkpoints."""

import contextlib
from pathlib import Path
import time
from typing import NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import building, choices, processes, startup, workdirs
from experiments.building import Progress
from experiments.signals import Signals, Stopped
import metajax as mj
from metajax import checkpoints, logs, trees

# How long a compiled program runs at most: a signal waits for its end.
_CALL_SECONDS = 2.0

# Relative residuals above which a run warns.
_FAR_FROM_REST, _POORLY_SOLVED = 0.1, 0.1

# The validation tasks of every run with the same data, ways, shots and queries.
_VALIDATION_SEED = 1_000_001


class NonFinite(Exception):
    """Loss or gradient stay not finite: what to say of it."""


class Since(NamedTuple):
    """What happened since the last line of the log: part of a checkpoint."""

    metrics: dict[str, list[float]] = {}  # A value a step.
    seconds: float = 0.0

    @property
    def num_steps(self) -> int:
        return len(next(iter(self.metrics.values()), []))

    def add(
        self, metrics: dict[str, np.ndarray], num_steps: int, seconds: float
    ) -> "Since":
        more = {
            name: self.metrics.get(name, []) + values[:num_steps].tolist()
            for name, values in metrics.items()
        }
        return Since(more, self.seconds + seconds)

    def means(self) -> dict[str, float]:
        """Means over the steps that were not skipped, and how many were."""
        skipped = np.array(self.metrics["train/skipped"], bool)
        means = {
            name: np.nan if skipped.all() else np.mean(np.array(values)[~skipped])
            for name, values in self.metrics.items()
        }
        return means | {"train/skipped": float(skipped.sum())}


def train(
    config,
    workdir: Path,
    experiment: building.Experiment,
    progress: Progress,
    since: Since,
    clock: startup.Clock,
    signals: Signals,
) -> Progress:
    """Trains to the last step, and saves what there is whenever it ends earlier.

    Args:
      config: the flags.
      workdir: the run's directory.
      experiment: what is trained.
      progress: where to begin; its buffers are given up.
      since: what happened since the line before.
      clock: tells at the first step what the start took, if it runs.
      signals: whether to stop.

    Returns:
      The progress at the last step.

    Raises:
      Stopped: if a signal asked for it.
      NonFinite: if more than `--max_skipped` steps in a row were not finite.
      OSError: if the directory cannot be written.
    """
    step, ahead = int(progress.state.step), 1
    last_line = step - since.num_steps
    with (
        signals.deferred(),
        processes.only_first(logs.MetricLog, workdir, last_line) as log,
        processes.only_first(logs.progress_bar, config.num_steps, step) as bar,
        processes.only_first(_saver, config, workdir) as saver,
    ):
        while step < config.num_steps or since.num_steps:
            try:
                while left := building.steps_to_line(config, step, since.num_steps):
                    asked = min(ahead, left)
                    progress, metrics, seconds = _advance(
                        config, experiment, progress, asked
                    )
                    # All processes take as many steps the next time, or all stop.
                    seconds, received = processes.agree(seconds, signals.received)
                    progress = progress._replace(seconds=progress.seconds + seconds)
                    taken = int(progress.state.step) - step
                    since, step = since.add(metrics, taken, seconds), step + taken
                    if taken < asked:
                        raise NonFinite(_explain(config, step, metrics))
                    if clock.runs:
                        logging.info(clock.stop(seconds, asked))
                        draw_tasks(experiment, workdir)
                    bar.update(taken)
                    saver.check()
                    if received:
                        raise Stopped(int(received))
                    ahead = max(1, int(_CALL_SECONDS * asked / seconds))
                validates = building.validates(config, step)
                progress, line = _line(
                    config, experiment, progress, since, validates, signals
                )
            except (Stopped, NonFinite):
                saver.save(step, processes.local(progress), since._asdict())
                saver.check(wait=True)
                raise
            # The line first: one without its checkpoint is dropped when resumed.
            log.write(step, line)
            since = Since()
            if validates:
                log.sync()
                saver.save(step, processes.local(progress), since._asdict())
            rate = f"{line['tasks_per_second']:.0f}"
            bar.set_postfix({"loss": f"{line['train/loss']:.4f}", "tasks/s": rate})
        if not config.num_steps:  # Else the last step has been saved.
            saver.save(step, processes.local(progress), since._asdict())
    return progress


def _saver(config, workdir: Path) -> checkpoints.InBackground:
    return checkpoints.InBackground(
        workdir / "checkpoints",
        fingerprint=workdirs.fingerprint(config),
        keep=config.keep_checkpoints,
    )


def _advance(
    config, experiment, progress: Progress, num_steps: int
) -> tuple[Progress, dict[str, np.ndarray], float]:
    """Takes outer steps; returns metrics, one value a step, and the seconds it took."""
    started = time.perf_counter()
    state, metrics = mj.train(
        experiment.step,
        progress.state,
        experiment.problem.train,
        num_tasks=config.num_tasks,
        num_steps=num_steps,
        at_most=config.log_every_steps,
    )
    metrics = {f"train/{name}": v for name, v in jax.device_get(metrics).items()}
    seconds = time.perf_counter() - started
    return progress._replace(state=state), metrics, seconds


def _line(
    config,
    experiment,
    progress: Progress,
    since: Since,
    validates: bool,
    signals: Signals,
) -> tuple[Progress, dict[str, float]]:
    """What the log says of the steps since the line before; validates if it is time."""
    line = since.means()
    _warn_of_trouble(line)
    line["seconds"] = float(progress.seconds)
    line["tasks_per_second"] = config.num_tasks * since.num_steps / since.seconds
    if validates:
        # One process of several must not leave the others alone with it.
        at_once = not processes.are_several()
        with signals.immediate() if at_once else contextlib.nullcontext():
            progress, scores = _validate(config, experiment, progress)
        line |= scores | _mean_rates(config, progress.state.meta)
    return progress, line


def _warn_of_trouble(means: dict[str, float]) -> None:
    """Says what was skipped, and where implicit differentiation assumes what is not so."""
    if means["train/skipped"]:
        logging.warning(
            "%d steps were skipped, since their loss or gradient was not finite.",
            means["train/skipped"],
        )
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


def draw_tasks(experiment: building.Experiment, workdir: Path) -> None:
    """Draws a sheet of training tasks."""
    from experiments import pictures  # Not earlier: matplotlib takes long to import.

    if processes.is_first():
        sampler = processes.local(experiment.problem.train)
        pictures.task_sheet(sampler, workdir / "tasks.png")


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


def _explain(config, step: int, metrics: dict[str, np.ndarray]) -> str:
    loss, grad_norm = metrics["train/loss"][-1], metrics["train/grad_norm"][-1]
    solver = ""
    if "train/solver_residual" in metrics:
        residual = metrics["train/solver_residual"][-1]
        solver = (
            f"; the solver left a residual of {residual:.2g}, which --damping, a larger "
            "--regularization or --solver=gmres may mend"
        )
    return (
        f"step {step} has meta-loss {loss} and gradient norm {grad_norm}, and the "
        f"{config.max_skipped} before it were not finite either; its tasks are those "
        f"that mj.training.step_tasks draws for step {step} of --seed={config.seed}, and "
        "the state before it is saved. Start anew in another --workdir, with a smaller "
        f"--inner_rate or --outer_rate, or fewer --inner_steps{solver}."
    )
