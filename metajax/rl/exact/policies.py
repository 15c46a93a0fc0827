"""Policies that need no learning, in the form of learned ones: yardsticks in rollouts.

They have no params, and estimate no value: theirs is 0 throughout.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.rl.actions import Normal, among
from metajax.rl.base import (
    Decision,
    Discrete,
    Environment,
    Policy,
    Seen,
    along,
)
from metajax.rl.exact.bandits import best_arm_posterior, gittins_indices, index_place


class Counts(NamedTuple):
    """What the arms of a Bernoulli bandit have paid so far, float32 `[arms]` both."""

    successes: jax.Array
    failures: jax.Array


def gittins(arms: int, pulls: int) -> Policy:
    """Pulls an arm of the highest finite-horizon Gittins index.

    Args:
      arms: of `bernoulli_bandit`.
      pulls: in a trial, or in the longest of several; see `gittins_indices`.

    Returns:
      A policy; arms that tie are equally likely.

    Source:
      See `gittins_indices`.
    """
    indices = jnp.asarray(gittins_indices(pulls))

    def logits(counts: Counts, seen: Seen):
        tries = (counts.successes + counts.failures).astype(jnp.int32)
        place = index_place(pulls - seen.left, tries, counts.successes.astype(int))
        return _highest(indices[place])

    return _by_counts(arms, logits)


def thompson(arms: int) -> Policy:
    """Pulls an arm with the probability that it is the best: Thompson sampling.

    Args:
      arms: of `bernoulli_bandit`.

    Returns:
      A policy that says these probabilities, `best_arm_posterior`; to draw from them is
      to draw an arm's probability from its posterior and take the highest.

    Source:
      Thompson 1933, "On the likelihood that one unknown probability exceeds another".
    """

    def logits(counts: Counts, seen: Seen):
        return jnp.log(jnp.maximum(best_arm_posterior(*counts), 1e-30))

    return _by_counts(arms, logits)


def ucb1(arms: int, scale: float = 1.0) -> Policy:
    """Pulls an arm with the highest upper confidence bound; untried arms first.

        successes[a] / tries[a] + scale * sqrt(2 log(tries of all arms) / tries[a])

    Args:
      arms: of `bernoulli_bandit`.
      scale: of the bound; 1 is the original, smaller is better on these bandits.

    Returns:
      A policy; arms that tie are equally likely.

    Source:
      Auer et al. 2002, "Finite-time analysis of the multiarmed bandit problem", figure 1.
    """

    def logits(counts: Counts, seen: Seen):
        tries = counts.successes + counts.failures
        safe = jnp.maximum(tries, 1)
        bonus = jnp.sqrt(2 * jnp.log(jnp.maximum(tries.sum(), 1)) / safe)
        bound = counts.successes / safe + scale * bonus
        return _highest(jnp.where(tries > 0, bound, jnp.inf))

    return _by_counts(arms, logits)


def greedy(arms: int) -> Policy:
    """Pulls an arm with the highest posterior mean, (successes + 1) / (tries + 2).

    Args:
      arms: of `bernoulli_bandit`.

    Returns:
      A policy; arms that tie are equally likely.
    """

    def logits(counts: Counts, seen: Seen):
        tries = counts.successes + counts.failures
        return _highest((counts.successes + 1) / (tries + 2))

    return _by_counts(arms, logits)


def random_policy(environment: Environment) -> Policy:
    """Takes every legal action with equal probability; real actions standard normal.

    Args:
      environment: tells which actions there are.

    Returns:
      A policy without a memory.
    """
    actions = environment.actions

    def step(params, memory, seen: Seen):
        if isinstance(actions, Discrete):
            choice = among(jnp.zeros(actions.number), seen.legal)
        else:
            choice = Normal(jnp.zeros(actions.size), jnp.zeros(actions.size))
        return memory, Decision(choice, jnp.float32(0))

    return _without_params(lambda params: (), step)


def _highest(index: jax.Array) -> jax.Array:
    return among(jnp.zeros(index.shape), index == index.max()).logits


def _by_counts(arms: int, logits: Callable[[Counts, Seen], jax.Array]) -> Policy:
    """A policy whose memory is what each arm has paid."""
    if arms < 1:
        raise ValueError(f"Policies of bandits: arms must be at least 1: got {arms}.")

    def start(params) -> Counts:
        return Counts(jnp.zeros(arms), jnp.zeros(arms))

    def step(params, memory: Counts, seen: Seen):
        pulled = jnp.where(seen.begins, 0, jax.nn.one_hot(seen.action, arms))
        counts = Counts(
            memory.successes + pulled * seen.reward,
            memory.failures + pulled * (1 - seen.reward),
        )
        return counts, Decision(among(logits(counts, seen), seen.legal), jnp.float32(0))

    return _without_params(start, step)


def _without_params(start, step) -> Policy:
    return Policy(lambda key, seen: (), start, step, along(start, step))
