"""What few-shot learners are measured by: losses, accuracy, and calibration."""

from collections.abc import Callable

import jax
import numpy as np

from experiments import running
from experiments.few_shot.parts import Problem
from experiments.running import Measurement
from experiments.running.measuring import Report
import metajax as mj
from metajax import calibration
from metajax.base import MetaParams, Sampler


def measure(
    problem: Problem,
    learners: dict[int, mj.MetaLearner],
    sampler: Sampler,
    seed: int,
    num_tasks: int,
    *,
    tasks_per_chunk: int,
    fit: Callable[[MetaParams], float] | None = None,
) -> running.Measure:
    """Measures learners by their numbers of inner steps, calibrated where that is fit."""
    metrics = problem.metrics | problem.eval_metrics
    if problem.calibrate:
        learners = {n: _tempered(each) for n, each in learners.items()}
    measured = running.on_tasks(
        sampler,
        {
            (n,): mj.query_loss(each, problem.loss, **metrics)
            for n, each in learners.items()
        },
        axis="inner steps",
        seed=seed,
        num_tasks=num_tasks,
        tasks_per_chunk=tasks_per_chunk,
    )
    if not problem.calibrate:
        return measured

    def calibrated(meta: MetaParams, report: Report) -> Measurement:
        chosen = np.float32(fit(meta) if fit else 1)
        found = measured((meta, chosen), report)
        return found._replace(more=found.more | {"temperature": chosen})

    return measured._replace(measure=calibrated)


def _tempered(learner: mj.MetaLearner) -> mj.MetaLearner:
    """A learner whose logits are divided by a temperature, beside its parameters."""

    def adapt(key, meta, support):
        return learner.adapt(key, meta[0], support)

    def predict(meta, adapted, inputs):
        return learner.predict(meta[0], adapted, inputs) / meta[1]

    return mj.MetaLearner(learner.init, adapt, predict)


def temperature(
    problem: Problem, learner: mj.MetaLearner, seed: int, num_tasks: int
) -> Callable[[MetaParams], float]:
    """How the temperature that suits the validation tasks best is found."""
    metrics = {"by_temperature": calibration.by_temperature}
    objective = mj.query_loss(learner, problem.loss, **metrics)

    def fit(meta: MetaParams) -> float:
        key = jax.random.key(seed)
        sampler = problem.validation
        found = mj.evaluate(objective, meta, sampler, key=key, num_tasks=num_tasks)
        return calibration.best_temperature(found.values["by_temperature"])

    return fit


def rows(found: Measurement) -> list[dict]:
    """Summaries by number of inner steps, and how many tasks diverged.

    A task counts as diverged if its loss is not finite, or larger than that of every
    task before adaptation.
    """
    worst_before = np.nanmax(found.at("loss", 0))
    summaries = running.rows(found)
    for row, place in zip(summaries, found.places):
        row["diverged"] = int(np.sum(~(found.at("loss", place) <= worst_before)))
        if "temperature" in found.more:
            row["temperature"] = float(found.more["temperature"])
    if "reliability" in found.more:
        sums = found.more["reliability"].sum(axis=0).reshape(len(summaries), 3, -1)
        for row, each in zip(summaries, sums):
            row["calibration_error"] = calibration.calibration_error(each)
    return summaries
