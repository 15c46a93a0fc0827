"""From drawn tables and a network to an experiment: how it learns, what it is worth."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from experiments import running
from experiments.running import Experiment, Metric
import metajax as mj
from metajax.base import Batch, Key, Model, Objective, Sampler


def experiment(
    tables: Sampler,
    network: Model,
    classes: int | None,
    *,
    optimizer: optax.GradientTransformation,
    num_tasks: int,
    num_validation_tasks: int,
    num_test_tasks: int,
    sizes: Mapping[str, str],
) -> Experiment:
    """Pre-trains a network in context on drawn tables.

    Args:
      tables: draws one.
      network: reads it, such as `models.table_transformer`.
      classes: the bound of their number; None for real targets.
      optimizer: the outer one.
      num_tasks: tables an outer step.
      num_validation_tasks: tables to choose parameters by.
      num_test_tasks: tables to report.
      sizes: of the network, saved with its parameters.
    """
    learner = mj.in_context(mj.models.mlp([], None), network)
    if classes is None:
        loss, more = mj.losses.gaussian_nll, {"squared_error": squared_error}
    else:
        loss, more = mj.losses.cross_entropy, {"accuracy": mj.losses.accuracy}
    objective = mj.query_loss(learner, loss, **more)

    def measure(seed: int, number: int):
        judged = beside_best(objective, tables)
        return running.on_tasks(
            *(tables, {(0,): judged}),
            **{"axis": "inner steps", "seed": seed, "num_tasks": number},
            tasks_per_chunk=min(number, 20),
        )

    def step(layout: running.Layout):
        meta_grad = mj.estimators.backprop(objective, **layout._asdict())
        return mj.train_step(meta_grad, optimizer)

    return Experiment(
        init=lambda key: mj.init_state(key, learner, optimizer, tables),
        optimizer=optimizer,
        step=step,
        tasks=tables,
        num_tasks=num_tasks,
        validation=measure(running.VALIDATION, num_validation_tasks),
        test=measure(running.TEST, num_test_tasks),
        metric=Metric("loss"),
        advice=lambda last: "a smaller --outer_rate",
        belongs_to={"network": "table_transformer", **sizes},
    )


def squared_error(outputs, targets, mask=None) -> jax.Array:
    """The squared error of the means."""
    return mj.losses.squared_error(outputs[0], targets, mask)


def beside_best(objective: Objective, tables: Sampler) -> Objective:
    """The same, and what the best predictor costs where it is known."""
    if not isinstance(tables, mj.data.LinearRegression | mj.data.GaussianProcess):
        return objective

    def judged(key: Key, meta, task: mj.Task):
        loss, metrics = objective(key, meta, task)
        best = best_outputs(tables, task.support, task.query.inputs)
        targets = task.query.targets
        metrics |= {
            "best_loss": mj.losses.gaussian_nll(best, targets),
            "best_squared_error": squared_error(best, targets),
        }
        return loss, metrics

    return judged


def best_outputs(
    tables: mj.data.LinearRegression | mj.data.GaussianProcess,
    support: Batch,
    inputs: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The mean and standard deviation that no predictor is better than."""
    if isinstance(tables, mj.data.GaussianProcess):
        return tables.posterior(support, inputs)
    # The posterior of weights with a standard normal prior.
    variance = tables.noise_std**2
    mean = mj.data.least_squares(support, inputs, variance)
    precision = support.inputs.T @ support.inputs / variance + jnp.eye(tables.dim)
    spread = inputs * jnp.linalg.solve(precision, inputs.T).T
    std = jnp.sqrt(variance + spread.sum(axis=1, keepdims=True))
    return mean, std
