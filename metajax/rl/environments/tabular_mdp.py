"""Markov decision processes with few states, whose rewards and transitions are unknown."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.rl.base import Discrete, Environment, TimeStep


class TabularMDP(NamedTuple):
    """A Markov decision process as tables."""

    means: jax.Array  # [states, actions], of the rewards
    transitions: jax.Array  # [states, actions, next states], probabilities


def tabular_mdp(states: int = 10, actions: int = 5, horizon: int = 10) -> Environment:
    """Random tables; each episode begins in state 0.

        params.means[s, a] ~ N(1, 1),    params.transitions[s, a] ~ Dirichlet(1, ..., 1)
        reward = params.means[s, a] + noise

    Args:
      states: how many.
      actions: how many.
      horizon: steps of an episode.

    Returns:
      An environment whose params are a `TabularMDP`, and which shows the state as one-hot
      float32 `[states]`.

    Raises:
      ValueError: if one of the sizes is less than 1.

    Example:
      >>> environment = tabular_mdp()
      >>> _, shown = environment.reset(key := jax.random.key(0), environment.sample(key))
      >>> int(shown.observation.argmax())
      0

    Source:
      Duan et al. 2016 (arXiv 1611.02779), section 3.2, after Osband et al. 2013.
    """
    if min(states, actions, horizon) < 1:
        raise ValueError(
            "tabular_mdp: states, actions and horizon must be at least 1: got "
            f"{states}, {actions}, {horizon}."
        )

    def sample(key):
        mean_key, transition_key = jax.random.split(key)
        means = 1 + jax.random.normal(mean_key, (states, actions))
        shares = jax.random.exponential(transition_key, (states, actions, states))
        return TabularMDP(means, shares / shares.sum(axis=-1, keepdims=True))

    def shown(state, reward, done):
        return TimeStep(jax.nn.one_hot(state, states), reward, done)

    def reset(key, params):
        start = jnp.int32(0)
        return (start, jnp.int32(0)), shown(start, jnp.float32(0), jnp.array(False))

    def step(key, state, action, params):
        state, time = state
        reward_key, next_key = jax.random.split(key)
        reward = params.means[state, action] + jax.random.normal(reward_key)
        below = jnp.cumsum(params.transitions[state, action])[:-1]
        state = jnp.sum(jax.random.uniform(next_key) >= below, dtype=jnp.int32)
        return (state, time + 1), shown(state, reward, time + 1 >= horizon)

    return Environment(sample, reset, step, Discrete(actions), horizon)
