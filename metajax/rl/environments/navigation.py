"""Navigation in the plane towards a goal that is not shown."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.rl.base import Continuous, Environment, TimeStep

STRIDE = 0.1  # The most that one step moves along each axis.
NEAR = 0.01  # From the goal along each axis, where an episode ends.


def navigation(horizon: int = 100) -> Environment:
    """A point moves in the plane and is told how far its goal is.

        position = position + 0.1 * clip(action, -1, 1)
        reward = -|position - params|

    The goal, `params`, is uniform in [-0.5, 0.5]^2; each episode begins at 0 and ends when
    both coordinates are within 0.01 of the goal, or at the horizon.

    Args:
      horizon: steps of an episode at most.

    Returns:
      An environment whose params are the goal, `[2]`, and which shows the position, `[2]`.

    Raises:
      ValueError: if the horizon is less than 1.

    Example:
      >>> environment = navigation()
      >>> state, _ = environment.reset(jax.random.key(0), goal := jnp.array([0.3, 0.4]))
      >>> _, shown = environment.step(jax.random.key(0), state, jnp.ones(2), goal)
      >>> print(shown.observation, f"{shown.reward:.3f}")
      [0.1 0.1] -0.361

    Source:
      Finn et al. 2017 (arXiv 1703.03400), section 5.3.

    Note:
      As the paper's code has it; its text says squared distance.
    """
    if horizon < 1:
        raise ValueError(f"navigation: horizon must be at least 1: got {horizon}.")

    def sample(key):
        return jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)

    def reset(key, params):
        shown = TimeStep(jnp.zeros(2), jnp.float32(0), jnp.array(False))
        return (shown.observation, jnp.int32(0)), shown

    def step(key, state, action, params):
        position, time = state
        position = position + STRIDE * jnp.clip(action, -1, 1)
        away = position - params
        done = jnp.all(jnp.abs(away) < NEAR) | (time + 1 >= horizon)
        shown = TimeStep(position, -jnp.sqrt(jnp.sum(away**2)), done)
        return (position, time + 1), shown

    return Environment(sample, reset, step, Continuous(2), horizon)


def original_goals() -> jax.Array:
    """The 40 goals that Finn et al. 2017 test on, float32 `[40, 2]`.

    Example:
      >>> original_goals().shape
      (40, 2)
    """
    draws = np.random.RandomState(1).uniform(-0.5, 0.5, (40, 2))
    return jnp.asarray(draws, jnp.float32)
