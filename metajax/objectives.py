"""What one task costs: from a meta-learner to an objective."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts
from metajax.base import (
    Adapted,
    Batch,
    Key,
    Loss,
    MetaLearner,
    MetaParams,
    Metrics,
    Objective,
    PyTree,
    Task,
)


def query_loss(learner: MetaLearner, loss: Loss, **metrics: Loss) -> Objective:
    """The loss on a task's query batch after adapting to its support batch.

        loss(predict(meta, adapt(key, meta, support), query.inputs), query.targets)

    Args:
      learner: the meta-learner.
      loss: what is minimised.
      **metrics: further losses to report by name, such as `accuracy=losses.accuracy`.

    Returns:
      An objective whose metrics are `loss` and those given.

    Raises:
      ValueError: if the learner is none, or a loss takes no mask.
    """
    losses = {"loss": loss, **metrics}
    contracts.check_learner(learner)
    contracts.check_losses(*losses.values())
    return _QueryLoss(learner, tuple(losses.items()))


class _QueryLoss(NamedTuple):
    """A value, so that what is compiled for one serves all of the same parts."""

    learner: MetaLearner
    losses: tuple[tuple[str, Loss], ...]

    def __call__(self, key: Key, meta: MetaParams, task: Task):
        _, values = _judge(self.learner, dict(self.losses), key, meta, task)
        return values["loss"], values


def adapt_and_judge(
    learner: MetaLearner, loss: Loss, **metrics: Loss
) -> Callable[[Key, MetaParams, Task], tuple[Adapted, Metrics]]:
    """Adapts to a task's support batch, and measures losses on its query batch.

    Args:
      learner: the meta-learner.
      loss: reported as `loss`.
      **metrics: further losses by name.

    Returns:
      `(key, meta, task) -> (adapted, losses by name)`.
    """
    losses = {"loss": loss, **metrics}
    contracts.check_learner(learner)
    contracts.check_losses(*losses.values())
    return partial(_judge, learner, losses)


def _judge(
    learner: MetaLearner,
    losses: dict[str, Loss],
    key: Key,
    meta: MetaParams,
    task: Task,
) -> tuple[Adapted, Metrics]:
    support, query = task
    adapted = learner.adapt(key, meta, support)
    outputs = learner.predict(meta, adapted, query.shown)
    return adapted, _measure(losses, outputs, query)


def _measure(losses: dict[str, Loss], outputs: PyTree, query: Batch) -> Metrics:
    contracts.check_outputs(outputs, query)
    return {
        name: loss(outputs, query.targets, query.mask) for name, loss in losses.items()
    }


def multi_step_loss(
    learner: MetaLearner, loss: Loss, weights: jax.Array, **metrics: Loss
) -> Objective:
    """The query loss after every inner step, weighted.

        sum_i weights[i] * loss(outputs[i], query.targets)

    Args:
      learner: a meta-learner whose outputs have an axis of inner steps in front,
        `[steps, examples, ...]`, such as `maml_plus_plus(..., every_step=True)`.
      loss: what is minimised.
      weights: of each step, `[steps]`; see `step_weights`.
      **metrics: further losses to report by name.

    Returns:
      An objective. Its metrics, `loss` among them, are those after the last step.

    Source:
      Antoniou, Edwards, Storkey 2019 (arXiv 1810.09502), section 4.
    """
    losses = {"loss": loss, **metrics}
    contracts.check_learner(learner)
    contracts.check_losses(*losses.values())

    def objective(key: Key, meta: MetaParams, task: Task):
        support, query = task
        adapted = learner.adapt(key, meta, support)
        outputs = learner.predict(meta, adapted, query.shown)
        each = jax.vmap(lambda outputs: loss(outputs, query.targets, query.mask))
        last = jax.tree.map(lambda x: x[-1], outputs)
        return jnp.sum(weights * each(outputs)), _measure(losses, last, query)

    return objective


def step_weights(step: jax.Array, num_steps: int, anneal_steps: int) -> jax.Array:
    """How much the query loss after each inner step counts, at an outer step.

    All S inner steps count the same at first. As the share of `anneal_steps` that is
    past grows, weight moves to the last one, but for 0.03 / S each; after that it has
    it all.

    Args:
      step: the outer step.
      num_steps: S, the inner steps.
      anneal_steps: outer steps until the last inner step alone counts.

    Returns:
      The weights, `[num_steps]`, whose sum is 1.

    Source:
      Antoniou et al. 2019, section 4, with the numbers of their released code.
    """
    early = jnp.maximum(1 - step / anneal_steps, 0.03) / num_steps
    early = jnp.where(step < anneal_steps, early, 0.0)
    weights = jnp.full(num_steps, early)
    return weights.at[-1].set(1 - early * (num_steps - 1))
