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

    metrics: dict[str, list[list[float]]] = {}  # A value a seed, for each step.
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

    def means(self) -> list[dict[str, float]]:
        """By seed, means over steps that were not skipped, and how many were."""
        by_seed = {name: np.transpose(v) for name, v in self.metrics.items()}
        return [
            {
                name: np.nan if skipped.all() else np.mean(values[seed][~skipped])
                for name, values in by_seed.items()
            }
            | {"train/skipped": float(skipped.sum())}
            for seed, skipped in enumerate(by_seed["train/skipped"].astype(bool))
        ]


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
    step, ahead = min(_steps(progress)), 1
    last_line = step - since.num_steps
    with (
        signals.deferred(),
        processes.only_first(_Logs, config, workdir, last_line) as log,
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
                    taken = min(_steps(progress)) - step
                    since, step = since.add(metrics, taken, seconds), step + taken
                    if taken < asked:
                        raise NonFinite(_explain(config, progress, metrics))
                    if clock.runs:
                        logging.info(clock.stop(seconds, asked))
                        draw_tasks(experiment, workdir)
                    bar.update(taken)
                    saver.check()
                    if received:
                        raise Stopped(int(received))
                    ahead = max(1, int(_CALL_SECONDS * asked / seconds))
                validates = building.validates(config, step)
                progress, lines = _lines(
                    config, experiment, progress, since, validates, signals
                )
            except (Stopped, NonFinite):
                # Once one seed has failed, others may be further: the older checkpoint
                # is where all of them go on.
                if len(set(_steps(progress))) == 1:
                    saver.save(step, processes.local(progress), since._asdict())
                saver.check(wait=True)
                raise
            # The lines first: one without its checkpoint is dropped when resumed.
            log.write(step, lines)
            since = Since()
            if validates:
                log.sync()
                saver.save(step, processes.local(progress), since._asdict())
            loss = np.mean([line["train/loss"] for line in lines])
            rate = np.sum([line["tasks_per_second"] for line in lines])
            bar.set_postfix({"loss": f"{loss:.4f}", "tasks/s": f"{rate:.0f}"})
        if not config.num_steps:  # Else the last step has been saved.
            saver.save(step, processes.local(progress), since._asdict())
    return progress


def _steps(progress: Progress) -> list[int]:
    """The outer steps that each seed has taken."""
    return np.atleast_1d(progress.state.step).tolist()


class _Logs(contextlib.ExitStack):
    """The log of each seed."""

    def __init__(self, config, workdir: Path, step: int):
        super().__init__()
        directories = workdirs.of_seeds(config, workdir)
        for directory in directories:
            directory.mkdir(exist_ok=True)
        self._logs = [
            self.enter_context(logs.MetricLog(directory, step))
            for directory in directories
        ]

    def write(self, step: int, lines: list[dict[str, float]]) -> None:
        for log, line in zip(self._logs, lines):
            log.write(step, line)

    def sync(self) -> None:
        for log in self._logs:
            log.sync()


def _saver(config, workdir: Path) -> checkpoints.InBackground:
    return checkpoints.InBackground(
        workdir / "checkpoints",
        fingerprint=workdirs.fingerprint(config),
        keep=config.keep_checkpoints,
    )


def _advance(
    config, experiment, progress: Progress, num_steps: int
) -> tuple[Progress, dict[str, np.ndarray], float]:
    """Takes outer steps; returns metrics, `[steps, seeds]`, and the seconds it took."""
    started = time.perf_counter()
    state, metrics = building.advance(config, experiment, progress.state, num_steps)
    metrics = {
        f"train/{name}": np.atleast_2d(values).T
        for name, values in jax.device_get(metrics).items()
    }
    seconds = time.perf_counter() - started
    return progress._replace(state=state), metrics, seconds


def _lines(
    config,
    experiment,
    progress: Progress,
    since: Since,
    validates: bool,
    signals: Signals,
) -> tuple[Progress, list[dict[str, float]]]:
    """What the logs say of the steps since the line before; validates if it is time."""
    lines = since.means()
    of_seed = [f" of seed {s}" if len(lines) > 1 else "" for s in choices.seeds(config)]
    for line, which in zip(lines, of_seed):
        _warn_of_trouble(line, which)
        line["seconds"] = float(np.asarray(progress.seconds).max())
        line["tasks_per_second"] = config.num_tasks * since.num_steps / since.seconds
    if validates:
        each = building.each_seed(config, progress)
        # One process of several must not leave the others alone with it.
        at_once = not processes.are_several()
        with signals.immediate() if at_once else contextlib.nullcontext():
            each, scores = zip(*[_validate(config, experiment, one) for one in each])
        for line, which, one, score in zip(lines, of_seed, each, scores):
            text = ", ".join(f"{name} {mean:.4f}" for name, mean in score.items())
            logging.info("step %d%s: %s", int(one.state.step), which, text)
            line |= score | _mean_rates(config, one.state.meta)
        progress = each[0] if len(each) == 1 else building.stack_seeds(config, each)
    return progress, lines


def _warn_of_trouble(means: dict[str, float], of_seed: str) -> None:
    """Says what was skipped, and where implicit differentiation assumes what is not so."""
    if means["train/skipped"]:
        logging.warning(
            "%d steps%s were skipped, since their loss or gradient was not finite.",
            means["train/skipped"],
            of_seed,
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
    return progress, means


def _mean_rates(config, meta) -> dict[str, float]:
    """The mean of the learned inner rates of each leaf (and step), if there are any."""
    rates = jax.device_get(processes.local(getattr(meta, "rates", None)))
    if "rates" in config.per_step:
        rates = jax.tree.map(list, rates)
    names = [f"rates/{path}".rstrip("/") for path in trees.leaf_paths(rates)]
    return dict(zip(names, map(float, map(np.mean, jax.tree.leaves(rates)))))


def _explain(config, progress: Progress, metrics: dict[str, np.ndarray]) -> str:
    step = min(_steps(progress))
    which = _steps(progress).index(step)
    seed = choices.seeds(config)[which]
    last = {name: values[-1, which] for name, values in metrics.items()}
    several = config.num_seeds > 1
    kept = "what was saved before stays" if several else "the state before it is saved"
    without = "without this seed, or " if several else ""
    loss, grad_norm = last["train/loss"], last["train/grad_norm"]
    solver = ""
    if "train/solver_residual" in last:
        solver = (
            f"; the solver left a residual of {last['train/solver_residual']:.2g}, which "
            "--damping, a larger --regularization or --solver=gmres may mend"
        )
    return (
        f"step {step} has meta-loss {loss} and gradient norm {grad_norm}, and the "
        f"{config.max_skipped} before it were not finite either; its tasks are those "
        f"that mj.training.step_tasks draws for step {step} of --seed={seed}, and "
        f"{kept}. Start anew in another --workdir, {without}with a smaller "
        f"--inner_rate or --outer_rate, an --outer_clip, or fewer --inner_steps{solver}."
    )
