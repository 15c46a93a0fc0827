"""What runs that learn to play measure: returns, totals and regret."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import running
from experiments.meta_rl.parts import Game, Learning
from experiments.running import Metric
from metajax import rl
from metajax.base import Key, Loss, Objective, Params, Task
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


def divergence(
    game: Game, policy: Policy, collect: rl.Collect, places: tuple[int, ...]
) -> Objective:
    """How far a policy's probabilities are from the exact posterior of right actions.

        kl = sum_a posterior[a] log(posterior[a] / policy[a])        in nats

    Args:
      game: one whose posterior is known.
      policy: says, along what is collected.
      collect: a trial of somebody without params.
      places: the decisions at which it is measured, from 1.

    Returns:
      An objective, whose metric `kl` is `[places]`.
    """
    at = jnp.asarray(places) - 1

    def objective(key: Key, params: Params, task: EnvParams):
        seen = collect(key, (), task).inputs
        right = game.posterior(seen)
        said = jax.nn.log_softmax(policy.apply(params, seen).actions.logits)
        each = jnp.sum(jax.scipy.special.xlogy(right, right) - right * said, axis=1)
        return jnp.mean(each), {"kl": each[at]}

    return objective


def together(first: Objective, second: Objective) -> Objective:
    """The metrics of both, and the loss of the first."""

    def both(key: Key, params: Params, task: EnvParams):
        loss, found = first(key, params, task)
        return loss, found | second(key, params, task)[1]

    return both


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


def chosen_by(learning: Learning) -> str:
    """The metric by which parameters are chosen: what a trial earns, or an episode."""
    return "return" if learning.adapts else "total"


def beside_players(game: Game, learning: Learning) -> Objective:
    """What a policy earns, and beside it what others do who need no learning.

    Args:
      game: the game, with its players.
      learning: how it is learned.

    Returns:
      An objective, whose further metrics are `NAME_total`, `[places]`, of each player.
    """
    if learning.adapts:
        return learning.objective
    num_episodes = learning.places[-1]
    others = {
        name: of_trials(game, make(num_episodes), num_episodes, learning.places)
        for name, make in game.players.items()
    }

    def objective(key: Key, params: Params, task: EnvParams):
        loss, found = learning.objective(key, params, task)
        for name, other in others.items():
            found[f"{name}_total"] = other(key, (), task)[1]["total"]
        return loss, found

    return objective


def bounds_at(game: Game, learning: Learning) -> dict[str, np.ndarray]:
    """Exact values at the places of a measurement: of an episode, or of a whole trial."""
    if learning.adapts:
        return {}
    num_episodes = learning.places[-1]
    found = {}
    for name, values in game.bounds(num_episodes).items():
        at_places = np.asarray(learning.places) - 1
        found[name] = np.asarray(values)[at_places] if np.ndim(values) else values
    return found


def table(game: Game, learning: Learning, metric: Metric, summary: dict) -> str:
    """A result as text: what was earned, then others, and what is exact."""
    rows, others = [], {}
    for row in summary["rows"]:
        rows.append({k: v for k, v in row.items() if k in _OWN or k not in _names(row)})
        others = {k: v for k, v in row.items() if k in _names(row) and k not in _OWN}
    lines = [running.table(summary | {"rows": rows}, metric)]
    after = f"after {summary['rows'][-1][_key(summary)]} {summary['axis']}"
    for name, found in others.items():
        player = name.removesuffix("_total")
        lines.append(
            f"{player + ', total ' + after:>40s}: {found['mean']:.3f} +- "
            f"{found['interval']:.3f}"
        )
    for name, values in bounds_at(game, learning).items():
        what = "of each" if np.ndim(values) else f"total {after}"
        value = np.ravel(values)[-1]
        lines.append(f"{name + ', ' + what + ', exact':>40s}: {value:.3f}")
    return "\n".join(lines)


_OWN = ("return", "total", "regret", "kl")


def _names(row: dict) -> list[str]:
    return [name for name, value in row.items() if isinstance(value, dict)]


def _key(summary: dict) -> str:
    return summary["axis"].replace(" ", "_")


def normalized(data: Task) -> Task:
    """Advantages of the query batches of all tasks, with mean 0 and deviation 1."""
    query = data.query
    gains = rl.normalize(query.targets.advantage, query.mask)
    targets = query.targets._replace(advantage=gains)
    return data._replace(query=query._replace(targets=targets))
