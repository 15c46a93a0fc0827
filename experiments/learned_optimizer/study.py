"""From rules and trainings to an experiment: how a rule is learned, what it is worth."""

from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from experiments import running
from experiments.learned_optimizer import trainings
from experiments.running import Experiment, Measurement, Metric
import metajax as mj
from metajax import training
from metajax.base import Rule
from metajax.problems import Problem


class Windows(NamedTuple):
    """How trainings are seen by what learns from them.

    Attributes:
      estimator: "persistent", "reused", "fresh" or "truncated".
      window: inner steps an outer step.
      horizon: inner steps of a training.
      std: of the noise in the meta-parameters.
      judged_by: "train" or "query": whose loss a step costs.
    """

    estimator: str
    window: int
    horizon: int
    std: float
    judged_by: str


class Tested(NamedTuple):
    """What rules are judged on, perhaps other trainings than they are learned on.

    Attributes:
      validation: the trainings that baselines are tuned on.
      test: the trainings that count.
      baselines: names, as `trainings.baseline` takes them.
      num_validation_tasks: how many to choose by.
      num_test_tasks: how many to report.
      num_steps: inner steps.
      places: at how many of them losses are looked at, after the first.
    """

    validation: Problem
    test: Problem
    baselines: tuple[str, ...]
    num_validation_tasks: int
    num_test_tasks: int
    num_steps: int
    places: int


def experiment(
    rule: Rule,
    train: Problem,
    validation: Problem,
    windows: Windows,
    tested: Tested,
    *,
    optimizer: optax.GradientTransformation,
    num_tasks: int,
    rule_name: str,
) -> Experiment:
    """Meta-trains a rule, and holds it against optimizers at the best of their rates.

    Args:
      rule: the rule.
      train: the trainings to learn from.
      validation: those to choose the rule by.
      windows: how trainings are seen.
      tested: what rules are judged on.
      optimizer: the outer one.
      num_tasks: trainings side by side.
      rule_name: what the meta-parameters belong to.
    """
    judged_by_query = windows.judged_by == "query"
    between = tested.num_steps // tested.places
    places = tuple(range(0, tested.num_steps + 1, between))
    seen = {"window": windows.window, "horizon": windows.horizon}

    def dynamics(problem: Problem) -> mj.unrolls.Dynamics:
        judged = problem.query_loss if judged_by_query else None
        return mj.rules.training(rule, problem.init, problem.loss, judged=judged)

    def meta_grad(layout: running.Layout):
        how = seen | layout._asdict()
        if windows.estimator == "truncated":
            return mj.estimators.truncated(dynamics(train), **how)
        noise = {"persistent": "fresh_summed"}.get(windows.estimator, windows.estimator)
        return mj.estimators.persistent(
            dynamics(train), std=windows.std, noise=noise, **how
        )

    def init(key):
        rule_key, key = jax.random.split(key)
        meta = jax.jit(rule.init)(rule_key)
        begin = (meta_grad(running.Layout()), meta, train.sample, num_tasks)
        carried = training.begin_carrying(key, *begin)
        return training.begin(key, meta, optimizer, carried)

    def step(layout: running.Layout):
        return mj.train_step(meta_grad(layout), optimizer)

    baselines = {n: trainings.baseline(n, tested.num_steps) for n in tested.baselines}
    tune = cache(
        partial(
            trainings.best_rates,
            *(tested.validation, baselines, tested.num_steps),
            by="test" if judged_by_query else "train",
            seed=running.VALIDATION,
            num_tasks=tested.num_validation_tasks,
        )
    )
    return Experiment(
        init=init,
        optimizer=optimizer,
        step=step,
        tasks=train.sample,
        num_tasks=num_tasks,
        validation=running.on_tasks(
            validation.sample,
            {
                (windows.horizon,): mj.unrolls.whole(
                    dynamics(validation), windows.horizon
                )
            },
            axis="inner steps",
            seed=running.VALIDATION,
            num_tasks=tested.num_validation_tasks,
        ),
        test=trainings.judged(
            *(tested.test, rule, baselines, tune, places),
            seed=running.TEST,
            num_tasks=tested.num_test_tasks,
        ),
        metric=Metric("loss"),
        advice=lambda last: "a smaller --outer_rate or --std, or shorter --horizon",
        rows=rows,
        table=table,
        draw=partial(draw, rule),
        digests=_digests(training=train, validation=validation),
        belongs_to={"rule": rule_name},
        next_steps={
            "use": "from rule import optimizer  # DIR/rule.py, which needs optax alone"
        },
    )


def _digests(**problems: Problem) -> dict[str, str]:
    """Of the classes that tasks are drawn from, by split, if there are any."""
    found = {}
    for split, problem in problems.items():
        tasks = getattr(problem.sample, "tasks", problem.sample)
        if hasattr(tasks, "data"):
            found[split] = tasks.data.digest
    return found


def ratio(found: Measurement, name: str, kind: str, place: int) -> tuple[float, float]:
    """The rule's loss over another's: the geometric mean over tasks, and a factor.

    The interval goes from `mean / factor` to `mean * factor`.
    """
    losses = [found.at(f"{each}_{kind}", place) for each in ("rule", name)]
    logs = [np.log(np.maximum(loss, trainings.LEAST)) for loss in losses]
    with np.errstate(invalid="ignore"):  # inf - inf, where a training diverges.
        mean, interval = mj.mean_and_interval(logs[0] - logs[1])
    return float(np.exp(mean)), float(np.exp(interval))


def _kinds(values: Iterable[str]) -> list[str]:
    """Whose losses there are: of the examples that are trained on, and of others."""
    return [kind for kind in ("train", "test") if f"rule_{kind}" in values]


def rows(found: Measurement) -> list[dict]:
    """Summaries along the trainings, with the rule's losses over those of baselines."""
    summaries = running.rows(found)
    rates = {name: float(rate) for name, rate in found.more.items()}
    for row, place in zip(summaries, found.places):
        for name in rates:
            for kind in _kinds(found.values):
                mean, factor = ratio(found, name, kind, place)
                row[f"over_{name}_{kind}"] = {"mean": mean, "factor": factor}
        row["rates"] = rates
    return summaries


def table(summary: dict) -> str:
    """Losses along the trainings, and the rule's over those of tuned baselines."""
    rates = summary["rows"][0]["rates"]
    shown = ", ".join(f"{name} {rate:.2g}" for name, rate in rates.items())
    lines = [
        f"{summary['num_tasks']} unseen trainings ({summary['tasks_hash']}), rule of step "
        f"{summary['best_step']} of {summary['steps']}; rates chosen on others: {shown}",
    ]
    for kind in _kinds(summary["rows"][0]):
        heads = [f"{name:>12s}  {'rule over it':16s}" for name in rates]
        lines.append(f"inner steps  {kind + ' loss: rule':>16s}{''.join(heads)}")
        for row in summary["rows"]:
            rule = running.short(row[f"rule_{kind}"]["median"])
            cells = [_against(row, name, kind) for name in rates]
            lines.append(f"{row['inner_steps']:11d}  {rule:>16s}{''.join(cells)}")
    lines.append("Losses are medians; x/ is the factor of a 95% interval over tasks.")
    return "\n".join(lines)


def _against(row: dict, name: str, kind: str) -> str:
    loss, over = row[f"{name}_{kind}"]["median"], row[f"over_{name}_{kind}"]
    text = "diverged"
    if over["mean"] is not None and np.isfinite(over["mean"]):
        text = f"{over['mean']:.2f} x/ {over['factor']:.2f}"
    return f"{'nan' if loss is None else running.short(loss):>12s}  {text:16s}"


def draw(rule: Rule, meta, found: Measurement, directory: Path) -> None:
    """Losses along the trainings and what the rule does, and the rule as a file."""
    from experiments.learned_optimizer import pictures

    mj.rules.export(rule, meta, directory / "rule.py")
    pictures.losses(found, _kinds(found.values), directory / "trainings.png")
    pictures.moves(rule, meta, directory / "rule.png")
