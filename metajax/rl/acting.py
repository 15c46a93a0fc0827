"""Acting: what a policy collects in a task, as ordinary batches of one stream of decisions.

Nothing that is collected has a derivative: log-probabilities, values and rewards are
recorded as the numbers that they were.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts
from metajax.base import (
    Batch,
    Key,
    Params,
)
from metajax.rl import credit
from metajax.rl.base import (
    Acted,
    Decision,
    Discrete,
    Environment,
    EnvParams,
    Policy,
    Seen,
    TimeStep,
    vector,
)

Collect = Callable[[Key, Params, EnvParams], Batch]  # Acts with params in one task.


class Credit(NamedTuple):
    """How decisions are credited with rewards.

    Attributes:
      discount: of later rewards.
      decay: as in `credit.advantages`.
      scale: what rewards are multiplied by before; recorded ones stay as they are.
      baseline: "policy" for the policy's own values, "linear" for
        `credit.linear_baseline`, fitted to the rollouts themselves.
    """

    discount: float = 1.0
    decay: float = 1.0
    scale: float = 1.0
    baseline: str = "policy"


_BY_RETURNS = Credit()


class _Stream(NamedTuple):
    """What happened, `[steps, ...]`."""

    seen: Seen
    actions: jax.Array
    log_probs: jax.Array
    values: jax.Array  # 0 for padding, like rewards.
    rewards: jax.Array
    episodes: jax.Array
    real: jax.Array

    def batch(self, advantages: jax.Array, value_targets: jax.Array) -> Batch:
        acted = Acted(
            self.actions,
            self.log_probs,
            self.values,
            self.rewards,
            self.episodes,
            advantages,
            value_targets,
        )
        return Batch(self.seen, acted, self.real)


def trial(
    environment: Environment,
    policy: Policy,
    num_episodes: int,
    credit_by: Credit = _BY_RETURNS,
) -> Collect:
    """One trial: several episodes of a task in a row, along which the policy remembers.

    Args:
      environment: the game.
      policy: acts. Its memory starts anew at the beginning of the trial alone.
      num_episodes: episodes; each is over after `environment.horizon` steps at the latest.
      credit_by: how decisions are credited; later episodes are what earlier ones are for,
        so that credit crosses from one to the next.

    Returns:
      `(key, params, task) -> batch` of `num_episodes * environment.horizon` decisions, of
      which those after the last episode are padding.

    Raises:
      ValueError: if there is no episode or the horizon is none; when traced, if policy and
        environment do not fit.

    Source:
      Duan et al. 2016 (RL^2, arXiv 1611.02779), section 2.2.
    """
    _check(environment, num_episodes)
    num_steps = num_episodes * environment.horizon

    def collect(key: Key, params: Params, task: EnvParams) -> Batch:
        stream = _stream(
            environment, policy, num_episodes, num_steps, key, params, task
        )
        gains = _advantages(credit_by, stream)
        return stream.batch(gains, stream.values + gains)

    return collect


def rollouts(
    environment: Environment,
    policy: Policy,
    num_episodes: int,
    credit_by: Credit = _BY_RETURNS,
    *,
    normalized: bool = False,
) -> Collect:
    """Episodes of a task side by side, in each of which the policy begins anew.

    Args:
      environment: the game.
      policy: acts.
      num_episodes: episodes.
      credit_by: how decisions are credited, each episode by itself.
      normalized: whether advantages are shifted and scaled to mean 0 and deviation 1 over
        the decisions of the task.

    Returns:
      `(key, params, task) -> batch` of `num_episodes * environment.horizon` decisions, one
      episode after another, whose rest is padding where an episode was over earlier.

    Raises:
      ValueError: as `trial`, or if there is no such baseline.
    """
    _check(environment, num_episodes)
    if credit_by.baseline not in ("policy", "linear"):
        raise ValueError(
            f"baseline must be policy or linear: got {credit_by.baseline!r}."
        )

    def collect(key: Key, params: Params, task: EnvParams) -> Batch:
        def episode(index):
            own = jax.random.fold_in(key, index)
            horizon = environment.horizon
            return _stream(environment, policy, 1, horizon, own, params, task)

        indices = jnp.arange(num_episodes)
        streams = jax.vmap(episode)(indices)
        streams = streams._replace(
            episodes=jnp.broadcast_to(indices[:, None], streams.real.shape),
            values=_baseline(streams, credit_by),
        )
        gains = jax.vmap(partial(_advantages, credit_by))(streams)
        if normalized:
            gains = normalize(gains, streams.real)
        batch = jax.vmap(_Stream.batch)(streams, gains, streams.values + gains)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    return collect


def _baseline(streams: _Stream, credit_by: Credit) -> jax.Array:
    """Values of episodes, `[episodes, steps]`."""
    if credit_by.baseline == "policy":
        return streams.values
    later = partial(credit.returns, discount=credit_by.discount)
    observations = jax.vmap(jax.vmap(vector))(streams.seen.observation)
    rewards = jax.vmap(later)(credit_by.scale * streams.rewards)
    values = credit.linear_baseline(observations, rewards, streams.real)
    return jnp.where(streams.real, values, 0)


def _advantages(credit_by: Credit, stream: _Stream) -> jax.Array:
    rewards = credit_by.scale * stream.rewards
    return credit.advantages(
        rewards, stream.values, None, credit_by.discount, credit_by.decay
    )


def normalize(advantages: jax.Array, real: jax.Array) -> jax.Array:
    """Advantages shifted and scaled to mean 0 and deviation 1 where they are real."""
    mean = jnp.mean(advantages, where=real)
    std = jnp.std(advantages, where=real)
    return jnp.where(real, (advantages - mean) / (std + 1e-8), 0)


class _Place(NamedTuple):
    """Where a stream stands before a decision."""

    state: object
    memory: object
    seen: Seen
    episode: jax.Array
    steps: jax.Array  # Taken in this episode.


def _stream(
    environment: Environment,
    policy: Policy,
    num_episodes: int,
    num_steps: int,
    key: Key,
    params: Params,
    task: EnvParams,
) -> _Stream:
    """Acts for so many steps, episodes after those asked for being padding."""
    begin_key, key = jax.random.split(key)

    def act(place: _Place, index: jax.Array) -> tuple[_Place, _Stream]:
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        memory, decision = policy.step(params, place.memory, place.seen)
        action = decision.actions.sample(keys[0])
        _check_action(environment, decision, action)
        state, shown = environment.step(keys[1], place.state, action, task)
        over = shown.done | (place.steps + 1 >= environment.horizon)
        begun = environment.reset(keys[2], task)
        state, current = jax.tree.map(
            lambda new, old: jnp.where(over, new, old), begun, (state, shown)
        )
        after = _Place(
            state,
            memory,
            next_seen(place.seen, current, shown, action, over),
            place.episode + over,
            jnp.where(over, 0, place.steps + 1),
        )
        real = place.episode < num_episodes
        value, reward = (jnp.where(real, x, 0) for x in (decision.value, shown.reward))
        log_prob = decision.actions.log_prob(action)
        happened = _Stream(
            place.seen, action, log_prob, value, reward, place.episode, real
        )
        return after, happened

    state, shown = environment.reset(begin_key, task)
    seen = first_seen(environment, shown, num_steps)
    place = _Place(state, policy.start(params), seen, jnp.int32(0), jnp.int32(0))
    return jax.lax.scan(act, place, jnp.arange(num_steps))[1]


def first_seen(environment: Environment, shown: TimeStep, num_steps: int) -> Seen:
    """What is seen before the first decision of a trial of so many."""
    nothing = jax.tree.map(jnp.zeros_like, shown.observation)
    return Seen(
        observation=shown.observation,
        before=nothing,
        led_to=nothing,
        action=no_action(environment),
        reward=jnp.float32(0),
        first=jnp.bool_(True),
        begins=jnp.bool_(True),
        left=jnp.int32(num_steps),
        legal=shown.legal,
    )


def next_seen(
    before: Seen, current: TimeStep, shown: TimeStep, action: jax.Array, over: jax.Array
) -> Seen:
    """What is seen after a decision: where one stands, and what the action led to."""
    return Seen(
        observation=current.observation,
        before=before.observation,
        led_to=shown.observation,
        action=action,
        reward=jnp.float32(shown.reward),
        first=over,
        begins=jnp.bool_(False),
        left=before.left - 1,
        legal=current.legal,
    )


def no_action(environment: Environment) -> jax.Array:
    """What stands for the last action where there was none."""
    if isinstance(environment.actions, Discrete):
        return jnp.int32(0)
    return jnp.zeros(environment.actions.size)


def _check(environment: Environment, num_episodes: int) -> None:
    if not isinstance(environment, Environment):
        raise ValueError(
            "An environment must be a metajax.rl.Environment, such as "
            f"rl.bernoulli_bandit(5): got {contracts.described(environment)}."
        )
    if min(num_episodes, environment.horizon) < 1:
        raise ValueError(
            "A trial needs at least one episode of at least one step: got "
            f"{num_episodes} of horizon {environment.horizon}."
        )


def _check_action(
    environment: Environment, decision: Decision, action: jax.Array
) -> None:
    expected, kind = no_action(environment), environment.actions
    fits = action.shape == expected.shape
    if isinstance(kind, Discrete):
        logits = getattr(decision.actions, "logits", None)
        fits &= logits is not None and logits.shape == (kind.number,)
    else:
        fits &= jnp.issubdtype(action.dtype, jnp.floating)
    if not fits:
        raise ValueError(
            f"The policy does not fit the environment, whose actions are {kind}: it draws "
            f"{contracts.described(action)} from "
            f"{jax.tree.map(contracts.described, decision.actions)}. Build it for "
            "environment.actions."
        )
