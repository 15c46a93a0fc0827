"""What runs that learn to play measure: returns, totals and regret."""

import jax
import jax.numpy as jnp

from experiments.meta_rl.parts import Game
from metajax import rl
from metajax.base import Key, Loss, Objective, Params
from metajax.rl.base import EnvParams, Policy


def of_trials(
    game: Game, policy: Policy, num_episodes: int, places: tuple[int, ...]
) -> Objective:
    """What trials of a policy earn, episode by episode.

    Args:
      game: the game.
      policy: acts.
      num_episodes: of a trial.
      places: the numbers of episodes after which it is looked at.

    Returns:
      An objective. Its metrics, `[places]`: `return`, of the episode; `total`, of all up to
      it; and, if the most that can be had is known, `regret`, how far the total is from it.
    """
    collect = rl.trial(game.environment, policy, num_episodes)
    by_episode = rl.returns_by_episode(collect, num_episodes)
    at = jnp.asarray(places) - 1

    def objective(key: Key, params: Params, task: EnvParams):
        loss, found = by_episode(key, params, task)
        total = jnp.cumsum(found["return"])
        metrics = {"return": found["return"][at], "total": total[at]}
        if game.known is not None:
            most = game.known(task) * jnp.asarray(places)
            metrics["regret"] = most - total[at]
        return loss, metrics

    return objective


def last(objective: Objective) -> Objective:
    """The same, at the last of its places alone."""

    def at_last(key: Key, params: Params, task: EnvParams):
        loss, found = objective(key, params, task)
        return loss, {name: values[-1] for name, values in found.items()}

    return at_last


def mean_return(num_episodes: int) -> Loss:
    """The mean over episodes of what each earns, of a batch of so many."""

    def mean(outputs, targets, mask: jax.Array | None = None) -> jax.Array:
        return rl.losses.total_reward(outputs, targets, mask) / num_episodes

    return mean
