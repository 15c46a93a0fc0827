"""From rules and trainings to an experiment: how a rule is learned, what it is worth."""

from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from experiments import running
from experiments.learned_optimizer import trainings
from experiments.learned_optimizer.trainings import Networks
from experiments.running import Experiment, Measurement, Metric
import metajax as mj
from metajax import training
from metajax.base import Rule, Sampler


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
      networks: what is trained.
      validation: draws the tasks that baselines are tuned on.
      test: draws the tasks that count.
      num_validation_tasks: how many to choose by.
      num_test_tasks: how many to report.
      num_steps: inner steps.
      places: at how many of them losses are looked at, after the first.
    """

    networks: Networks
    validation: Sampler
    test: Sampler
    num_validation_tasks: int
    num_test_tasks: int
    num_steps: int
    places: int


def experiment(
    rule: Rule,
    networks: Networks,
    train: Sampler,
    validation: Sampler,
    windows: Windows,
    tested: Tested,
    *,
    optimizer: optax.GradientTransformation,
    num_tasks: int,
    rule_name: str,
) -> Experiment:
    """Meta-trains a rule, and holds it against Adam at the best of its rates.

    Args:
      rule: the rule.
      networks: what is trained in a task.
      train: draws tasks to learn from.
      validation: draws tasks to choose the rule by.
      windows: how trainings are seen.
      tested: what rules are judged on.
      optimizer: the outer one.
      num_tasks: trainings side by side.
      rule_name: what the meta-parameters belong to.
    """
    dynamics = trainings.dynamics(networks, rule, windows.judged_by)
    between = tested.num_steps // tested.places
    places = tuple(range(0, tested.num_steps + 1, between))
    whole = mj.unrolls.whole(dynamics, windows.horizon)
    seen = {"window": windows.window, "horizon": windows.horizon}

    def meta_grad(layout: running.Layout):
        if windows.estimator == "truncated":
            return mj.estimators.truncated(dynamics, **seen, **layout._asdict())
        noise = {"persistent": "fresh_summed"}.get(windows.estimator, windows.estimator)
        return mj.estimators.persistent(
            dynamics, **seen, std=windows.std, noise=noise, **layout._asdict()
        )

    def init(key):
        rule_key, key = jax.random.split(key)
        meta = jax.jit(rule.init)(rule_key)
        begin = (meta_grad(running.Layout()), meta, train, num_tasks)
        carried = training.begin_carrying(key, *begin)
        return training.begin(key, meta, optimizer, carried)

    def step(layout: running.Layout):
        return mj.train_step(meta_grad(layout), optimizer)

    tune = cache(
        partial(
            trainings.best_rates,
            *(tested.networks, tested.validation, tested.num_steps),
            *(running.VALIDATION, tested.num_validation_tasks),
        )
    )
    return Experiment(
        init=init,
        optimizer=optimizer,
        step=step,
        tasks=train,
        num_tasks=num_tasks,
        validation=running.on_tasks(
            validation,
            {(windows.horizon,): whole},
            axis="inner steps",
            seed=running.VALIDATION,
            num_tasks=tested.num_validation_tasks,
        ),
        test=trainings.judged(
            *(tested.networks, rule, tested.test, tune, places),
            seed=running.TEST,
            num_tasks=tested.num_test_tasks,
        ),
        metric=Metric("loss"),
        advice=lambda last: "a smaller --outer_rate or --std, or shorter --horizon",
        rows=rows,
        table=table,
        draw=draw,
        digests={"training": train.data.digest, "validation": validation.data.digest},
        belongs_to={"rule": rule_name},
    )


_AGAINST = tuple(trainings.baselines(1))


def ratio(found: Measurement, name: str, kind: str, place: int) -> tuple[float, float]:
    """The rule's loss over another's: the geometric mean over tasks, and a factor.

    The interval goes from `mean / factor` to `mean * factor`. Losses are not told apart
    below a millionth.
    """
    losses = [found.at(f"{each}_{kind}", place) for each in ("rule", name)]
    logs = [np.log(np.maximum(loss, 1e-6)) for loss in losses]
    with np.errstate(invalid="ignore"):  # inf - inf, where a training diverges.
        mean, interval = mj.mean_and_interval(logs[0] - logs[1])
    return float(np.exp(mean)), float(np.exp(interval))


def rows(found: Measurement) -> list[dict]:
    """Summaries along the trainings, with the rule's losses over those of baselines."""
    summaries = running.rows(found)
    for row, place in zip(summaries, found.places):
        for name in _AGAINST:
            for kind in ("train", "test"):
                mean, factor = ratio(found, name, kind, place)
                row[f"over_{name}_{kind}"] = {"mean": mean, "factor": factor}
        row["rates"] = {name: float(found.more[name]) for name in _AGAINST}
    return summaries


def table(summary: dict) -> str:
    """Losses along the trainings, and the rule's over those of tuned baselines."""
    rates = summary["rows"][0]["rates"]
    shown = ", ".join(f"{name} {rate:.2g}" for name, rate in rates.items())
    lines = [
        f"{summary['num_tasks']} unseen trainings ({summary['tasks_hash']}), rule of step "
        f"{summary['best_step']} of {summary['steps']}; rates chosen on others: {shown}",
        "inner steps   training loss: rule    adam  cosine  over adam        over cosine"
        "      test loss: rule    adam  over adam",
    ]

    def against(row, key):
        found = row[key]
        if found["mean"] is None:
            return "diverged"
        return f"{found['mean']:.2f} x/ {found['factor']:.2f}"

    for row in summary["rows"]:
        train, test = (
            [row[f"{name}_{kind}"]["median"] for name in ("rule", *_AGAINST)]
            for kind in ("train", "test")
        )
        cells = [running.short(value) for value in (*train, *test[:2])]
        lines.append(
            f"{row['inner_steps']:11d}{cells[0]:>22s}{cells[1]:>8s}{cells[2]:>8s}"
            f"  {against(row, 'over_adam_train'):15s}"
            f"  {against(row, 'over_cosine_train'):15s}"
            f"{cells[3]:>17s}{cells[4]:>8s}  {against(row, 'over_adam_test')}"
        )
    lines.append("Losses are medians; x/ is the factor of a 95% interval over tasks.")
    return "\n".join(lines)


def draw(meta, found: Measurement, directory: Path) -> None:
    """Losses along the trainings, with the middle half of the tasks as bands."""
    del meta
    from experiments.running.pictures import plt, save

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    colors = {"rule": "tab:orange", "adam": "tab:blue", "cosine": "0.5"}
    for axis, kind in zip(axes, ("train", "test")):
        for name, color in colors.items():
            values = found.values[f"{name}_{kind}"]
            low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
            axis.plot(found.places, middle, color=color, label=name)
            axis.fill_between(found.places, low, high, color=color, alpha=0.2)
        axis.set(xlabel="inner steps", yscale="log", title=f"{kind} loss, unseen tasks")
        axis.legend()
    save(figure, directory / "trainings.png")
