"""The training of a run: outer steps, a line now and then, validation, checkpoints."""

import contextlib
from pathlib import Path
import time
from typing import NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments.running import (
    devices,
    measuring,
    preparing,
    processes,
    startup,
)
from experiments.running.options import Options
from experiments.running.preparing import Prepared, Progress
from experiments.running.records import Records
from experiments.running.signals import Signals, Stopped
from metajax import logs

# How long a compiled program runs at most: a signal waits for its end.
_CALL_SECONDS = 2.0


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
    prepared: Prepared,
    options: Options,
    records: Records,
    progress: Progress,
    since: Since,
    clock: startup.Clock,
    signals: Signals,
) -> Progress:
    """Trains to the last step, and saves what there is whenever it ends earlier.

    Args:
      prepared: what is trained.
      options: how; its `workdir` is the run's own.
      records: what it writes, in the first process.
      progress: where to begin; its buffers are given up.
      since: what happened since the line before.
      clock: tells at the first step what the start took, if it runs.
      signals: whether to stop.

    Returns:
      The progress at the last step.

    Raises:
      Stopped: if a signal asked for it.
      NonFinite: if more steps in a row than may be skipped were not finite.
      OSError: if the directory cannot be written.
      locks.Lost: if it is no longer the run's own.
    """
    step, ahead = min(_steps(progress)), 1
    with (
        signals.deferred(),
        records,
        processes.only_first(logs.progress_bar, options.num_steps, step) as bar,
    ):
        while step < options.num_steps or since.num_steps:
            try:
                while left := _steps_to_line(options, step, since.num_steps):
                    asked = min(ahead, left)
                    progress, metrics, seconds = _advance(
                        prepared, progress, asked, options.log_every_steps
                    )
                    # All processes take as many steps the next time, or all stop.
                    seconds, received = processes.agree(seconds, signals.received)
                    progress = progress._replace(seconds=progress.seconds + seconds)
                    taken = min(_steps(progress)) - step
                    since, step = since.add(metrics, taken, seconds), step + taken
                    if taken < asked:
                        raise NonFinite(_explain(prepared, options, progress, metrics))
                    if clock.runs:
                        logging.info(clock.stop(seconds, asked))
                        draw_tasks(prepared, options.workdir)
                    bar.update(taken)
                    records.check()
                    if received:
                        raise Stopped(int(received))
                    ahead = max(1, int(_CALL_SECONDS * asked / seconds))
                validates = _validates(options, step)
                progress, lines = _lines(
                    prepared, options, progress, since, validates, signals
                )
            except (Stopped, NonFinite):
                # Once one seed has failed, others may be further: the older checkpoint
                # is where all of them go on.
                if len(set(_steps(progress))) == 1:
                    records.save(step, processes.local(progress), since._asdict())
                records.check(wait=True)
                raise
            # The lines first: one without its checkpoint is dropped when resumed.
            records.write(step, lines)
            since = Since()
            if validates:
                records.save(step, processes.local(progress), since._asdict())
            loss = np.mean([line["train/loss"] for line in lines])
            rate = np.sum([line["tasks_per_second"] for line in lines])
            bar.set_postfix({"loss": f"{loss:.4f}", "tasks/s": f"{rate:.0f}"})
        if not options.num_steps:  # Else the last step has been saved.
            records.save(step, processes.local(progress), since._asdict())
    return progress


def _steps(progress: Progress) -> list[int]:
    """The outer steps that each seed has taken."""
    return np.atleast_1d(progress.state.step).tolist()


def _steps_to_line(options: Options, step: int, since: int) -> int:
    """Outer steps until there is something to log, to validate, or the end.

    Args:
      options: how often there is.
      step: outer steps taken.
      since: how many of them since the line before; 0 if that is at `step`.
    """
    last = step - since
    until_eval = options.eval_every_steps - last % options.eval_every_steps
    line = min(last + options.log_every_steps, last + until_eval, options.num_steps)
    return max(line - step, 0)


def _validates(options: Options, step: int) -> bool:
    """Whether it is time for a validation and a checkpoint."""
    return step % options.eval_every_steps == 0 or step >= options.num_steps


def _advance(
    prepared: Prepared, progress: Progress, num_steps: int, at_most: int
) -> tuple[Progress, dict[str, np.ndarray], float]:
    """Takes outer steps; returns metrics, `[steps, seeds]`, and the seconds it took."""
    started = time.perf_counter()
    state, metrics = preparing.advance(prepared, progress.state, num_steps, at_most)
    metrics = {
        f"train/{name}": np.atleast_2d(values).T
        for name, values in jax.device_get(metrics).items()
    }
    seconds = time.perf_counter() - started
    return progress._replace(state=state), metrics, seconds


def _lines(
    prepared: Prepared,
    options: Options,
    progress: Progress,
    since: Since,
    validates: bool,
    signals: Signals,
) -> tuple[Progress, list[dict[str, float]]]:
    """What the logs say of the steps since the line before; validates if it is time."""
    lines = since.means()
    of_seed = [f" of seed {s}" if len(lines) > 1 else "" for s in options.seeds]
    num_tasks = prepared.experiment.num_tasks
    for line, which in zip(lines, of_seed):
        _warn_of_trouble(prepared, line, which)
        line["seconds"] = float(np.asarray(progress.seconds).max())
        line["tasks_per_second"] = num_tasks * since.num_steps / since.seconds
    if validates:
        each = devices.each_seed(prepared.devices, progress)
        # One process of several must not leave the others alone with it.
        at_once = not processes.are_several()
        with signals.immediate() if at_once else contextlib.nullcontext():
            each, scores = zip(*[_validate(prepared, one) for one in each])
        for line, which, one, score in zip(lines, of_seed, each, scores):
            text = ", ".join(f"{name} {mean:.4f}" for name, mean in score.items())
            logging.info("step %d%s: %s", int(one.state.step), which, text)
            line |= score | prepared.experiment.log(processes.local(one.state.meta))
        progress = each[0]
        if len(each) > 1:
            progress = devices.stack_seeds(prepared.devices, each)
    return progress, lines


def _warn_of_trouble(prepared: Prepared, means: dict[str, float], of_seed: str) -> None:
    """Says what was skipped, and what the experiment finds amiss."""
    if means["train/skipped"]:
        logging.warning(
            "%d steps%s were skipped, since their loss or gradient was not finite.",
            means["train/skipped"],
            of_seed,
        )
    prepared.experiment.watch(
        {name.removeprefix("train/"): value for name, value in means.items()}
    )


def draw_tasks(prepared: Prepared, workdir: Path) -> None:
    """Draws a sheet of training tasks."""
    if processes.is_first():
        prepared.experiment.draw_tasks(workdir / "tasks.png")


def _validate(
    prepared: Prepared, progress: Progress
) -> tuple[Progress, dict[str, float]]:
    """Scores the parameters on the validation tasks, and keeps the best ones."""
    experiment = prepared.experiment
    found = experiment.validation(progress.state.meta)
    means = {
        f"validation/{name}": np.mean(values) for name, values in found.values.items()
    }
    score = measuring.score(found, experiment.metric)
    if score >= progress.best_score:
        progress = progress._replace(
            best=jax.tree.map(jnp.copy, progress.state.meta),
            best_step=progress.state.step.copy(),
            best_score=jnp.float32(score),
        )
    return progress, means


def _explain(
    prepared: Prepared,
    options: Options,
    progress: Progress,
    metrics: dict[str, np.ndarray],
) -> str:
    step = min(_steps(progress))
    which = _steps(progress).index(step)
    last = {k.removeprefix("train/"): v[-1, which] for k, v in metrics.items()}
    skipped = np.atleast_1d(progress.state.skipped)[which]
    several = options.num_seeds > 1
    kept = "what was saved before stays" if several else "the state before it is saved"
    without = "without this seed, or " if several else ""
    return (
        f"step {step} has meta-loss {last['loss']} and gradient norm "
        f"{last['grad_norm']}, and the {skipped} before it were not finite either; its "
        f"tasks are those that mj.training.step_tasks draws for step {step} of "
        f"--seed={options.seeds[which]}, and {kept}. Start anew in another --workdir, "
        f"{without}with {prepared.experiment.advice(last)}."
    )
