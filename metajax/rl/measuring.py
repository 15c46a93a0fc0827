"""What a policy earns: by episode of a trial, or by step of adaptation."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from metajax.base import (
    Batch,
    Key,
    MetaLearner,
    MetaParams,
    Metrics,
    Objective,
    Params,
    without_padding,
)
from metajax.rl.acting import Collect
from metajax.rl.base import EnvParams


def returns_by_episode(collect: Collect, num_episodes: int) -> Objective:
    """The rewards of each episode of a trial, to measure a policy by.

    Args:
      collect: from `trial`.
      num_episodes: of it.

    Returns:
      An objective `(key, params, task)`, whose metric `return` is `[num_episodes]`, its
      loss the negative sum.
    """

    def objective(key: Key, params: Params, task: EnvParams):
        batch = collect(key, params, task)
        rewards = without_padding(batch.targets.reward, batch.mask)
        each = (
            jnp.zeros(num_episodes).at[batch.targets.episode].add(rewards, mode="drop")
        )
        return -jnp.sum(each), {"return": each}

    return objective


def adaptation(
    learners: Sequence[MetaLearner], collects: Sequence[Collect]
) -> Callable[[Key, MetaParams, EnvParams], list[tuple[Params, Batch]]]:
    """A policy's params and what it collects, before adaptation and after each step of it.

    Args:
      learners: one an adaptation step; each adapts what the one before has left, to
        episodes that its policy has collected. Their adapted parameters are like their
        meta-parameters, as those of `maml`.
      collects: from `rollouts`, one for each of them, and one for the last policy.

    Returns:
      `(key, meta, task) -> [(params, batch), ...]`, one more than there are learners.

    Raises:
      ValueError: if there is not one more of `collects` than of `learners`.
    """
    if len(collects) != len(learners) + 1:
        raise ValueError(
            "adaptation: collects must be one more than learners, for the policy after the "
            f"last step: got {len(collects)} and {len(learners)}."
        )

    def adapt(
        key: Key, meta: MetaParams, task: EnvParams
    ) -> list[tuple[Params, Batch]]:
        params, found = meta, []
        for step, collect in enumerate(collects):
            act_key, adapt_key = jax.random.split(jax.random.fold_in(key, step))
            batch = jax.lax.stop_gradient(collect(act_key, params, task))
            found.append((params, batch))
            if step < len(learners):
                params = learners[step].adapt(adapt_key, params, batch)
        return found

    return adapt


def returns_by_step(
    learners: Sequence[MetaLearner], collects: Sequence[Collect], num_episodes: int
) -> Objective:
    """The mean return of an episode before adaptation and after each step of it.

    Args:
      learners: as in `adaptation`.
      collects: as in `adaptation`.
      num_episodes: that each collects, over which returns are averaged.

    Returns:
      An objective, whose metric `return` is `[1 + steps]`, its loss the negative last.

    Raises:
      ValueError: as `adaptation`.
    """
    adapt = adaptation(learners, collects)

    def objective(
        key: Key, meta: MetaParams, task: EnvParams
    ) -> tuple[jax.Array, Metrics]:
        batches = [batch for _, batch in adapt(key, meta, task)]
        totals = [jnp.sum(b.targets.reward, where=b.mask) for b in batches]
        returns = jnp.stack(totals) / num_episodes
        return -returns[-1], {"return": returns}

    return objective
