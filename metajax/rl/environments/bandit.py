"""Bandits: arms whose rewards are unknown, and one pull an episode."""

import jax
import jax.numpy as jnp

from metajax.rl.base import Discrete, Environment, TimeStep


def bernoulli_bandit(arms: int) -> Environment:
    """Arms that pay 1 with an unknown probability and 0 else.

        params ~ U[0, 1]^arms,    reward ~ Bernoulli(params[action])

    Args:
      arms: how many.

    Returns:
      An environment whose params are the probabilities, `[arms]`. An episode is one pull
      and shows nothing, `[0.]`: a trial of n episodes is a bandit of n pulls.

    Raises:
      ValueError: if there is no arm.

    Example:
      >>> environment = bernoulli_bandit(arms=5)
      >>> environment.sample(jax.random.key(0)).shape, environment.horizon
      ((5,), 1)

    Source:
      Duan et al. 2016 (arXiv 1611.02779), section 3.1.
    """
    _check_arms("bernoulli_bandit", arms)

    def pull(key, probability):
        return jax.random.bernoulli(key, probability).astype(jnp.float32)

    return _bandit(lambda key: jax.random.uniform(key, (arms,)), pull, arms)


def gaussian_bandit(arms: int, std: float = 1.0) -> Environment:
    """Arms that pay a normal reward with an unknown mean.

        params ~ N(0, 1)^arms,    reward = params[action] + std * noise

    Args:
      arms: how many.
      std: standard deviation of the rewards of one arm.

    Returns:
      An environment whose params are the means, `[arms]`; else as `bernoulli_bandit`.

    Raises:
      ValueError: if there is no arm, or `std` is negative.

    Example:
      >>> gaussian_bandit(arms=3).actions
      Discrete(number=3)
    """
    _check_arms("gaussian_bandit", arms)
    if std < 0:
        raise ValueError(f"gaussian_bandit: std must be at least 0: got {std}.")

    def pull(key, mean):
        return mean + std * jax.random.normal(key)

    return _bandit(lambda key: jax.random.normal(key, (arms,)), pull, arms)


def _bandit(sample, pull, arms: int) -> Environment:
    nothing = jnp.zeros(1)

    def reset(key, params):
        return (), TimeStep(nothing, jnp.float32(0), jnp.array(False))

    def step(key, state, action, params):
        return (), TimeStep(nothing, pull(key, params[action]), jnp.array(True))

    return Environment(sample, reset, step, Discrete(arms), horizon=1)


def _check_arms(name: str, arms: int) -> None:
    if arms < 1:
        raise ValueError(f"{name}: arms must be at least 1: got {arms}.")
