"""Returns in a Markov decision process whose tables are known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.rl.environments.tabular_mdp import TabularMDP


class MDPReturns(NamedTuple):
    """Expected returns of an episode."""

    optimum: jax.Array
    random: jax.Array  # Of actions drawn with equal probability.


def mdp_optimum(params: TabularMDP, horizon: int) -> MDPReturns:
    """The best expected return of an episode from state 0, and that of random actions.

        value[s] = max over a of  means[s, a] + transitions[s, a] @ value of the next step

    Args:
      params: the tables of one task; `vmap` for more.
      horizon: steps of an episode.

    Returns:
      Both returns, float32 `[]`. The optimum bounds every learner, which has yet to find
      the tables out.

    Raises:
      ValueError: if the horizon is less than 1.

    Example:
      >>> from metajax.rl.environments import tabular_mdp
      >>> tables = jax.vmap(tabular_mdp().sample)(jax.random.split(jax.random.key(0), 500))
      >>> returns = jax.vmap(mdp_optimum, (0, None))(tables, 10)
      >>> bool(jnp.all(returns.optimum > returns.random))
      True

    Source:
      Bellman 1957, "Dynamic Programming".
    """
    if horizon < 1:
        raise ValueError(f"mdp_optimum: horizon must be at least 1: got {horizon}.")

    def earlier(values, _):
        best, random = (params.means + params.transitions @ v for v in values)
        return (best.max(axis=-1), random.mean(axis=-1)), None

    nothing = jnp.zeros(len(params.means))
    (best, random), _ = jax.lax.scan(earlier, (nothing, nothing), length=horizon)
    return MDPReturns(best[0], random[0])
