"""Acting: what a policy collects in a task, as ordinary batches of one stream of decisions.

Nothing that is collected has a derivative: log-probabilities, values and rewards are
recorded as the numbers that they were.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts
from metajax.base import (
    Batch,
    Key,
    MetaLearner,
    MetaParams,
    Metrics,
    Objective,
    Params,
    Sampler,
    Task,
)
from metajax.rl import credit
from metajax.rl.base import (
    Acted,
    Discrete,
    Environment,
    EnvParams,
    Policy,
    Seen,
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
        rewards = credit_by.scale * stream.rewards
        values = stream.values
        gains = credit.advantages(
            rewards, values, None, credit_by.discount, credit_by.decay
        )
        return stream.batch(gains, values + gains)

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
            return _stream(
                environment, policy, 1, environment.horizon, own, params, task
            )

        streams = jax.vmap(episode)(jnp.arange(num_episodes))
        rewards = credit_by.scale * streams.rewards
        values = streams.values
        if credit_by.baseline == "linear":
            later = partial(credit.returns, discount=credit_by.discount)
            values = credit.linear_baseline(
                _flat(streams.seen.observation, 2),
                jax.vmap(later)(rewards),
                streams.real,
            )
            values = jnp.where(streams.real, values, 0)
        gain = partial(
            credit.advantages, discount=credit_by.discount, decay=credit_by.decay
        )
        gains = jax.vmap(gain)(rewards, values)
        if normalized:
            gains = normalize(gains, streams.real)
        batch = jax.vmap(_Stream.batch)(streams, gains, values + gains)
        episodes = jnp.broadcast_to(
            jnp.arange(num_episodes)[:, None], streams.real.shape
        )
        batch = batch._replace(targets=batch.targets._replace(episode=episodes))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    return collect


def normalize(advantages: jax.Array, real: jax.Array) -> jax.Array:
    """Advantages shifted and scaled to mean 0 and deviation 1 where they are real."""
    mean = jnp.mean(advantages, where=real)
    std = jnp.std(advantages, where=real)
    return jnp.where(real, (advantages - mean) / (std + 1e-8), 0)


def along_trial(collect: Collect) -> Callable[[Key, MetaParams, EnvParams], Task]:
    """What `rl2` is trained on: nothing to adapt to, and a trial to be judged by.

    Args:
      collect: from `trial`.

    Returns:
      `(key, meta, task) -> Task`, whose support batch has no example.
    """

    def task_of(key: Key, meta: MetaParams, task: EnvParams) -> Task:
        query = jax.lax.stop_gradient(collect(key, meta, task))
        return Task(jax.tree.map(lambda x: x[:0], query), query)

    return task_of


def before_and_after(
    environment: Environment, learner: MetaLearner, before: Collect, after: Collect
) -> Callable[[Key, MetaParams, EnvParams], Task]:
    """What a learner that adapts a policy is trained on.

    Args:
      environment: the game.
      learner: its adapted parameters are the policy's, as those of `maml`.
      before: acts with what nothing was adapted to: the support batch.
      after: acts with the adapted parameters: the query batch.

    Returns:
      `(key, meta, task) -> Task`.

    Note:
      Parameters before adaptation are those adapted to a batch that is all padding.

    Source:
      Finn, Abbeel, Levine 2017 (arXiv 1703.03400), algorithm 3.
    """

    def task_of(key: Key, meta: MetaParams, task: EnvParams) -> Task:
        adapt_key, *keys = jax.random.split(key, 3)
        first = learner.adapt(adapt_key, meta, nothing_yet(environment, task))
        support = before(keys[0], first, task)
        query = after(keys[1], learner.adapt(adapt_key, meta, support), task)
        return jax.lax.stop_gradient(Task(support, query))

    return task_of


def returns_by_episode(collect: Collect, num_episodes: int, name="return") -> Objective:
    """The rewards of each episode of a trial, to measure a policy by.

    Args:
      collect: from `trial`.
      num_episodes: of it.
      name: of the metric.

    Returns:
      An objective `(key, params, task)`; its metric is `[num_episodes]`, its loss the
      negative sum.
    """

    def objective(key: Key, params: Params, task: EnvParams):
        batch = collect(key, params, task)
        rewards = jnp.where(batch.mask, batch.targets.reward, 0)
        each = (
            jnp.zeros(num_episodes).at[batch.targets.episode].add(rewards, mode="drop")
        )
        return -jnp.sum(each), {name: each}

    return objective


def returns_by_step(
    environment: Environment,
    learners: Sequence[MetaLearner],
    collect: Collect,
    num_episodes: int,
) -> Objective:
    """The mean return of an episode before adaptation and after each step of it.

    Args:
      environment: the game.
      learners: one an adaptation step; each adapts what the one before has left, to
        episodes that its policy has collected. Their adapted parameters are like their
        meta-parameters, as those of `maml`.
      collect: from `rollouts`.
      num_episodes: of them, over which returns are averaged.

    Returns:
      An objective, whose metric `return` is `[1 + steps]`, its loss the negative last.
    """

    def objective(
        key: Key, meta: MetaParams, task: EnvParams
    ) -> tuple[jax.Array, Metrics]:
        params, found = meta, []
        for step, learner in enumerate([*learners, None]):
            act_key, adapt_key = jax.random.split(jax.random.fold_in(key, step))
            batch = jax.lax.stop_gradient(collect(act_key, params, task))
            rewards = jnp.where(batch.mask, batch.targets.reward, 0)
            found.append(jnp.sum(rewards) / num_episodes)
            if learner is not None:
                params = learner.adapt(adapt_key, params, batch)
        return -found[-1], {"return": jnp.stack(found)}

    return objective


def examples(environment: Environment) -> Sampler:
    """Tasks of one decision that nobody took: they tell `init_state` the shapes.

    Args:
      environment: the game.
    """

    def sample(key: Key) -> Task:
        nothing = nothing_yet(environment, environment.sample(key))
        return Task(nothing, nothing)

    return sample


def nothing_yet(environment: Environment, task: EnvParams) -> Batch:
    """A batch of one decision that is padding."""
    _, shown = jax.eval_shape(environment.reset, jax.random.key(0), task)
    zeros = partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype))
    observation = zeros(shown.observation)
    action, number = _no_action(environment), jnp.float32(0)
    seen = Seen(
        observation,
        observation,
        action,
        number,
        jnp.bool_(True),
        jnp.bool_(True),
        jnp.int32(1),
        None if shown.legal is None else jnp.ones(shown.legal.shape, bool),
    )
    acted = Acted(action, number, number, number, jnp.int32(0), number, number)
    return jax.tree.map(lambda x: x[None], Batch(seen, acted, jnp.bool_(False)))


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

    def act(place: _Place, index: jax.Array):
        act_key, step_key, reset_key = jax.random.split(
            jax.random.fold_in(key, index), 3
        )
        memory, decision = policy.step(params, place.memory, place.seen)
        action = decision.actions.sample(act_key)
        _check_action(environment, action)
        state, shown = environment.step(step_key, place.state, action, task)
        over = shown.done | (place.steps + 1 >= environment.horizon)
        begun = environment.reset(reset_key, task)
        state, current = jax.tree.map(
            lambda new, old: jnp.where(over, new, old), begun, (state, shown)
        )
        real = place.episode < num_episodes
        reward = jnp.float32(shown.reward)
        happened = _Stream(
            place.seen,
            action,
            decision.actions.log_prob(action),
            jnp.where(real, decision.value, 0),
            jnp.where(real, reward, 0),
            place.episode,
            real,
        )
        seen = Seen(
            current.observation,
            shown.observation,
            action,
            reward,
            over,
            jnp.bool_(False),
            place.seen.left - 1,
            current.legal,
        )
        steps = jnp.where(over, 0, place.steps + 1)
        return _Place(state, memory, seen, place.episode + over, steps), happened

    state, shown = environment.reset(begin_key, task)
    seen = Seen(
        shown.observation,
        jax.tree.map(jnp.zeros_like, shown.observation),
        _no_action(environment),
        jnp.float32(0),
        jnp.bool_(True),
        jnp.bool_(True),
        jnp.int32(num_steps),
        shown.legal,
    )
    place = _Place(state, policy.start(params), seen, jnp.int32(0), jnp.int32(0))
    return jax.lax.scan(act, place, jnp.arange(num_steps))[1]


def _flat(tree, axes: int) -> jax.Array:
    """Leaves side by side, `[..., features]`, after so many leading axes."""
    leaves = [
        x.reshape(*x.shape[:axes], -1).astype(jnp.float32)
        for x in jax.tree.leaves(tree)
    ]
    return jnp.concatenate(leaves, axis=-1)


def _no_action(environment: Environment) -> jax.Array:
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


def _check_action(environment: Environment, action: jax.Array) -> None:
    expected = _no_action(environment)
    same_kind = jnp.issubdtype(action.dtype, jnp.integer) == isinstance(
        environment.actions, Discrete
    )
    if action.shape != expected.shape or not same_kind:
        kind = environment.actions
        raise ValueError(
            f"The policy does not fit the environment, whose actions are {kind}: it chose "
            f"{contracts.described(action)}. Build it for environment.actions."
        )
