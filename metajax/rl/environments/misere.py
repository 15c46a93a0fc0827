"""Games of which some are won by losing."""

import jax
import jax.numpy as jnp

from metajax.base import Key
from metajax.rl.base import Environment


def or_misere(environment: Environment) -> Environment:
    """A game, or with equal probability its misere form, in which who loses wins.

        reward = sign * reward of the game,    sign ~ uniform over -1 and 1

    The sign is hidden: only what a game was worth tells which form it is.

    Args:
      environment: the game, in which what one side wins the other loses.

    Returns:
      An environment whose params are the sign, float32 `[]`, and those of the game.

    Example:
      >>> from metajax.rl.environments import tic_tac_toe
      >>> sign, lines = or_misere(tic_tac_toe()).sample(jax.random.key(0))
      >>> float(abs(sign)), lines.shape
      (1.0, (8,))
    """

    def paid(now, sign: jax.Array):
        state, shown = now
        return state, shown._replace(reward=sign * shown.reward)

    def sample(key: Key):
        sign_key, key = jax.random.split(key)
        sign = jax.random.rademacher(sign_key, (), jnp.float32)
        return sign, environment.sample(key)

    def reset(key: Key, params):
        return paid(environment.reset(key, params[1]), params[0])

    def step(key: Key, state, action, params):
        return paid(environment.step(key, state, action, params[1]), params[0])

    return environment._replace(sample=sample, reset=reset, step=step)
