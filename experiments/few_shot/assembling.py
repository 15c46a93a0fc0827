"""From parts to an experiment; nothing here knows of flags."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np
import optax

from experiments import running
from experiments.few_shot import measuring
from experiments.few_shot.parts import Given, Problem
from experiments.running import Experiment, Layout, Measurement, Metric
import metajax as mj
from metajax import training, trees
from metajax.base import Adjoint, Estimator, Objective

# Relative residuals above which a run warns.
_FAR_FROM_REST, _POORLY_SOLVED = 0.1, 0.1

MakeAdjoint = Callable[..., Adjoint | None]  # From the number of inner steps.


class Recipe(NamedTuple):
    """A learner, for any width of its output and any number of inner steps.

    Attributes:
      make: `given -> learner`.
      trained: likewise, in training.
      model: from the width of its head, None for no head, to the model.
      optimizer: of inner steps, if there is one to choose.
      adjoint: how inner steps are differentiated; its arguments may be overridden.
      frozen: patterns of the meta-parameters that are not learned.
      rates_by_step: whether learned inner rates have a first axis of inner steps.
      belongs_to: what its meta-parameters are to be used with, by name.
    """

    make: Callable[..., mj.MetaLearner]
    trained: Callable[..., mj.MetaLearner]
    model: Callable[[int | None], mj.Model]
    optimizer: optax.GradientTransformation | None
    adjoint: MakeAdjoint
    frozen: list[str]
    rates_by_step: bool
    belongs_to: dict[str, str]

    def given(self, problem: Problem, outputs: int, num_steps: int, **changes) -> Given:
        return Given(
            build=self.model,
            outputs=outputs,
            classifies=problem.classifies,
            loss=problem.loss,
            num_steps=num_steps,
            optimizer=self.optimizer,
            adjoint=self.adjoint(num_steps, **changes),
        )

    def freeze(self, learner: mj.MetaLearner) -> mj.MetaLearner:
        return mj.freeze(learner, self.frozen) if self.frozen else learner


class Outer(NamedTuple):
    """How a learner is trained.

    Attributes:
      optimizer: the outer optimizer.
      estimator: `(problem, learner, objective, layout) -> estimator`.
      step_weights: `(step, num_steps) -> weights` of the loss after each inner step, or
        None where the last alone counts.
      first_order_until: outer steps at first order, before those in full.
      max_skipped: as in `mj.train_step`.
    """

    optimizer: optax.GradientTransformation
    estimator: Callable[..., Estimator]
    step_weights: Callable[..., jax.Array | None]
    first_order_until: int
    max_skipped: int


class Steps(NamedTuple):
    """Numbers of inner steps: in training, to report, and to choose parameters by."""

    training: int
    evaluated: list[int]
    selected: list[int]


class Tested(NamedTuple):
    """On how many tasks parameters are chosen and judged, so many at a time."""

    num_validation_tasks: int
    num_test_tasks: int
    tasks_per_chunk: int


def experiment(
    problem: Problem,
    recipe: Recipe,
    outer: Outer,
    steps: Steps,
    tested: Tested,
    *,
    num_tasks: int,
    tasks_per_chunk: int | None,
    cheaper: dict[str, MakeAdjoint],
) -> Experiment:
    """Few-shot training and testing of a learner.

    Args:
      problem: the tasks.
      recipe: the learner.
      outer: how it is trained.
      steps: numbers of inner steps.
      tested: numbers of tasks to choose by and to report.
      num_tasks: tasks an outer step.
      tasks_per_chunk: how many a device holds at a time; None for all.
      cheaper: other ways to differentiate inner steps, by what asks for them.
    """
    learner = trained(recipe, problem, steps.training)
    learners = {
        n: evaluated(recipe, problem, n)
        for n in sorted({0, *steps.evaluated, *steps.selected})
    }
    to_use = steps.selected[-1]
    measure = partial(
        measuring.measure, problem, tasks_per_chunk=tested.tasks_per_chunk
    )
    validation = running.VALIDATION, tested.num_validation_tasks
    fit = None
    if problem.calibrate:
        fit = measuring.temperature(problem, learners[to_use], *validation)
    metric = Metric("accuracy", True, True) if problem.classifies else Metric("loss")
    numbers = {"calibration_error": ".1%"} if problem.classifies else {"diverged": "d"}
    step = partial(train_step, problem, recipe, outer, steps.training)
    return Experiment(
        init=lambda key: mj.init_state(key, learner, outer.optimizer, problem.train),
        optimizer=outer.optimizer,
        step=step,
        tasks=problem.train,
        num_tasks=num_tasks,
        validation=measure(
            {n: learners[n] for n in steps.selected}, problem.validation, *validation
        ),
        test=measure(
            learners, problem.test, running.TEST, tested.num_test_tasks, fit=fit
        ),
        metric=metric,
        tasks_per_chunk=tasks_per_chunk,
        cheaper={k: partial(step, adjoint=adjoint) for k, adjoint in cheaper.items()},
        log=partial(_mean_rates, recipe.rates_by_step),
        watch=_watch,
        advice=_advice,
        rows=measuring.rows,
        table=partial(running.table, metric=metric, numbers=numbers),
        draw_tasks=partial(_draw_tasks, problem),
        draw=partial(_draw, problem, recipe, learners, max(steps.evaluated)),
        card=partial(_card, problem, recipe, to_use),
        digests=problem.digests,
        belongs_to=recipe.belongs_to,
    )


def trained(
    recipe: Recipe, problem: Problem, num_steps: int, make=None, **changes
) -> mj.MetaLearner:
    """The learner as it is trained, with changes in its adjoint."""
    given = recipe.given(problem, problem.outputs, num_steps, **changes)
    return recipe.freeze((make or recipe.trained)(given))


def evaluated(recipe: Recipe, problem: Problem, num_steps: int) -> mj.MetaLearner:
    """The learner as it is evaluated."""
    given = recipe.given(problem, problem.eval_outputs, num_steps)
    return recipe.freeze(recipe.make(given))


def train_step(
    problem: Problem,
    recipe: Recipe,
    outer: Outer,
    num_steps: int,
    layout: Layout,
    adjoint: MakeAdjoint | None = None,
) -> training.TrainStep:
    """The outer step, as devices share its tasks, perhaps with another adjoint."""
    if adjoint is not None:
        recipe = recipe._replace(adjoint=adjoint)
    at = partial(_estimator, problem, recipe, outer, num_steps, layout)
    scheduled = outer.first_order_until or outer.step_weights(0, num_steps) is not None
    skip = {"max_skipped": outer.max_skipped}
    if not scheduled:
        return mj.train_step(at(None), outer.optimizer, **skip)

    def meta_grad_at(step):
        then = at(step)
        if not outer.first_order_until:
            return then
        first = at(step, last=0)
        return mj.estimators.before(step, outer.first_order_until, first, then)

    return mj.scheduled_step(meta_grad_at, outer.optimizer, **skip)


def _estimator(
    problem: Problem,
    recipe: Recipe,
    outer: Outer,
    num_steps: int,
    layout: Layout,
    step,
    **changes,
) -> Estimator:
    """The estimator of training, at an outer step if it changes with it."""
    learner = trained(recipe, problem, num_steps, **changes)
    weights = outer.step_weights(step, num_steps)
    if weights is None:
        objective = _objective(problem, learner)
    else:
        make = partial(recipe.make, every_step=True)
        stepwise = trained(recipe, problem, num_steps, make, **changes)
        objective = mj.multi_step_loss(
            stepwise, problem.loss, weights, **problem.metrics
        )
    return outer.estimator(problem, learner, objective, layout)


def _objective(problem: Problem, learner: mj.MetaLearner) -> Objective:
    return mj.query_loss(learner, problem.loss, **problem.metrics)


def frozen_apart(
    optimizer: optax.GradientTransformation, frozen: list[str]
) -> optax.GradientTransformation:
    """An optimizer that leaves frozen meta-parameters alone, gradient or none."""
    if not frozen:
        return optimizer

    # Not every estimator and optimizer leaves alone what has no gradient.
    def label(meta):
        still, learned = trees.split(meta, frozen)
        labels = jax.tree.map(lambda _: "learned", learned)
        return trees.merge(jax.tree.map(lambda _: "frozen", still), labels)

    parts = {"frozen": optax.set_to_zero(), "learned": optimizer}
    return optax.partition(parts, label)


# What a run says


def _card(
    problem: Problem, recipe: Recipe, inner_steps: int, found: Measurement
) -> dict[str, Any]:
    """What `using.load` needs to know beside the flags."""
    data = getattr(problem.train, "data", None)
    normalization = recipe.belongs_to.get("normalization")
    temperature = found.more.get("temperature")
    return {
        "made_by": "experiments.few_shot.using",
        "inner_steps": inner_steps,
        "shape": [*problem.inputs.shape],
        "dtype": str(problem.inputs.dtype),
        "raw": problem.raw and [[*problem.raw.shape], str(problem.raw.dtype)],
        "classes": data.names if data else [],
        "keeps_labels": not getattr(problem.test, "permute_labels", True),
        "transductive": normalization == "transductive",
        "temperature": float(temperature) if temperature else None,
    }


def _mean_rates(by_step: bool, meta) -> dict[str, float]:
    """The mean of the learned inner rates of each leaf (and step), if there are any."""
    rates = jax.device_get(getattr(meta, "rates", None))
    if by_step:
        rates = jax.tree.map(list, rates)
    names = [f"rates/{path}".rstrip("/") for path in trees.leaf_paths(rates)]
    return dict(zip(names, map(float, map(np.mean, jax.tree.leaves(rates)))))


def _watch(means: dict[str, float]) -> None:
    """Says where implicit differentiation assumes what is not so."""
    left = means.get("inner_gradient", 0.0)
    if left > _FAR_FROM_REST:
        logging.log_first_n(
            logging.WARNING,
            "--adjoint=implicit takes the inner loop to have come to rest, but %.2g of "
            "the gradient is left after it: the meta-gradient may be far off. Take more "
            "--inner_steps, a larger --inner_rate or --regularization.",
            1,
            left,
        )
    residual = means.get("solver_residual", 0.0)
    if residual > _POORLY_SOLVED:
        logging.log_first_n(
            logging.WARNING,
            "the solver of --adjoint=implicit leaves a relative residual of %.2g: take "
            "more --solver_iterations or some --damping.",
            1,
            residual,
        )


def _advice(last: dict[str, float]) -> str:
    """What to do where loss or gradient stay not finite."""
    solver = ""
    if "solver_residual" in last:
        solver = (
            f"; the solver left a residual of {last['solver_residual']:.2g}, which "
            "--damping, a larger --regularization or --solver=gmres may mend"
        )
    return (
        "a smaller --inner_rate or --outer_rate, an --outer_clip, or fewer "
        f"--inner_steps{solver}"
    )


def _draw_tasks(problem: Problem, path: Path) -> None:
    from experiments.few_shot import pictures  # Matplotlib takes long to import.

    pictures.task_sheet(problem.train, path)


def _draw(
    problem: Problem,
    recipe: Recipe,
    learners: dict[int, mj.MetaLearner],
    most_steps: int,
    best,
    found: Measurement,
    directory: Path,
) -> None:
    """Draws learned rates, and test tasks before and after adaptation."""
    del found
    from experiments.few_shot import pictures

    if getattr(best, "rates", None) is not None:
        draw = pictures.rates_by_step if recipe.rates_by_step else pictures.rates
        draw(best.rates, directory / "rates.png")
    if isinstance(problem.test, mj.data.Sinusoid):
        path = directory / "predictions.png"
        pictures.regression(learners, best, problem.test, path)
    if problem.classifies:
        learner, path = learners[most_steps], directory / "task.png"
        embedding = recipe.model(None)
        pictures.classification(learner, embedding, best, problem.test, path)
