"""The vocabulary of games: environments, what is seen and done in them, and policies.

An environment is pure functions, written for ONE game; `vmap` adds an axis. What tells one
task from another is the environment's `params`, drawn from a key. The data of a task are
what a policy collects in it: `acting` makes ordinary batches of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Key, Params, PyTree
from metajax.models.recurrent import scanned
from metajax.rl.actions import Distribution

State = PyTree  # Of an environment.
EnvParams = PyTree  # What a task consists of.
Memory = PyTree  # Of a policy, from one decision to the next.
Action = Any


class Discrete(NamedTuple):
    """Actions 0 to `number - 1`, int32."""

    number: int


class Continuous(NamedTuple):
    """Actions of so many real numbers, float32[size]."""

    size: int


class TimeStep(NamedTuple):
    """What an environment shows after a reset or a step."""

    observation: PyTree
    reward: jax.Array  # float32, of the step; 0 after a reset
    done: jax.Array  # bool, the episode is over
    legal: jax.Array | None = None  # bool[actions], allowed now; None: all are


class Environment(NamedTuple):
    """A game, and how its tasks are drawn, as pure functions.

    Attributes:
      sample: `key -> params`: draws a task.
      reset: `(key, params) -> (state, shown)`: begins an episode.
      step: `(key, state, action, params) -> (state, shown)`. The observation of a last
        step is that of where it led to. Never called in an episode that is over.
      actions: which actions there are.
      horizon: steps after which an episode is over at the latest.
    """

    sample: Callable[[Key], EnvParams]
    reset: Callable[[Key, EnvParams], tuple[State, TimeStep]]
    step: Callable[[Key, State, Action, EnvParams], tuple[State, TimeStep]]
    actions: Discrete | Continuous
    horizon: int


class Seen(NamedTuple):
    """What a policy sees before a decision: inputs of a batch, `[decisions, ...]`.

    Where an episode has just begun, `observation` is its first one, and `led_to` the last
    one of the episode before: what the last action led to is never hidden.
    """

    observation: PyTree
    before: PyTree  # In which the last action was taken; zeros if there was none.
    action: Action  # The last one; likewise.
    led_to: PyTree  # What was observed after it; likewise.
    reward: jax.Array  # float32, for the last action
    first: jax.Array  # bool, an episode begins
    begins: jax.Array  # bool, a trial begins: memory starts anew
    left: jax.Array  # int32, decisions that are left in the trial, with this one
    legal: jax.Array | None = None  # bool[actions]


class Acted(NamedTuple):
    """What was done and what came of it: targets of a batch, `[decisions, ...]`."""

    action: Action
    log_prob: jax.Array  # float32, when it was drawn
    value: jax.Array  # float32, estimated when it was drawn
    reward: jax.Array  # float32, for it
    episode: jax.Array  # int32, the episode that it belongs to, from 0
    advantage: jax.Array  # float32, of the action over the value
    value_target: jax.Array  # float32


class Decision(NamedTuple):
    """What a policy says of a situation."""

    actions: Distribution
    value: jax.Array  # float32, of what is to come


class Policy(NamedTuple):
    """A way to act along a trial, as pure functions.

    Attributes:
      init: `(key, seen) -> params`, from examples, `[decisions, ...]`.
      start: `params -> memory`, at the beginning of a trial.
      step: `(params, memory, seen) -> (memory, decision)`, of one decision.
      apply: `(params, seen) -> decisions`, `[decisions, ...]` both: the same as `step`
        along them, memory starting anew where a trial begins.
    """

    init: Callable[[Key, Seen], Params]
    start: Callable[[Params], Memory]
    step: Callable[[Params, Memory, Seen], tuple[Memory, Decision]]
    apply: Callable[[Params, Seen], Decision]


def vector(*parts: PyTree) -> jax.Array:
    """All numbers of some trees in a row, `[features]`, float32."""
    leaves = [jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(parts)]
    return jnp.concatenate(leaves)


def along(
    start: Callable[[Params], Memory],
    step: Callable[[Params, Memory, Seen], tuple[Memory, Decision]],
) -> Callable[[Params, Seen], Decision]:
    """The `apply` of a policy by its `step`, one decision after another.

    Args:
      start: as `Policy.start`.
      step: as `Policy.step`.
    """
    decide = scanned(start, step)
    return lambda params, seen: decide(params, seen, seen.begins)
