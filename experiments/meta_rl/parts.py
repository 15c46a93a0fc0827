"""What the files of games and of learners give, beside `door.Part`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # The door must not wait for JAX.
    import jax
    import numpy as np

    from metajax.base import Batch, Loss, MetaLearner, MetaParams, Objective, Sampler
    from metajax.rl.base import Environment, EnvParams, Policy, Seen
    from metajax.rl.collecting import CollectTask
    from metajax.rl.policies import View


class PerPart(NamedTuple):
    """What a policy with one memory for each part needs to know of a game."""

    parts: int
    view: View
    about: View | None = None


class Game(NamedTuple):
    """A game: its tasks, and what is known of them.

    Attributes:
      environment: the game.
      train: draws tasks to learn from; the others to choose by and to be judged on.
      validation: likewise.
      test: likewise.
      episode: what an episode is called, such as "pull".
      per_part: for `--policy=per_part`, if it has parts.
      known: from a task to the most that an episode can return on average to who knows it,
        which regret is measured by; None where that is not known.
      right_action: `(task, seen) -> action`, the best one, if it is known.
      posterior: from a stream that is seen, `[decisions, ...]`, to the probability that
        each action is the right one, `[decisions, actions]`, if it is known.
      bounds: from a number of episodes to exact mean returns by name, `[episodes]` each or
        a total, of the distribution of tests.
      players: policies that need no learning, by name: `num_episodes -> policy`.
      draw: `(play, directory) -> None`, draws trials; `play(key)` gives the task and the
        stream of one.
    """

    environment: Environment
    train: Sampler
    validation: Sampler
    test: Sampler
    episode: str = "episode"
    per_part: PerPart | None = None
    known: Callable[[EnvParams], jax.Array] | None = None
    right_action: Callable[[EnvParams, Seen], jax.Array] | None = None
    posterior: Callable[[Seen], jax.Array] | None = None
    bounds: Callable[[int], Mapping[str, np.ndarray]] = lambda episodes: {}
    players: Mapping[str, Callable[[int], Policy]] = {}
    draw: Callable[[Callable, Path], None] | None = None


class Learning(NamedTuple):
    """How a policy is trained and measured in a game.

    Attributes:
      learner: what is trained.
      collect: what a task's data are, with the current parameters.
      loss: from the share of training that is over, 0 to 1, to the loss of the query batch.
      metrics: further losses to report.
      axis: what it is measured along.
      places: along the axis.
      objective: from a game's environment to what measures the parameters at the places.
      chosen: likewise, at the place that parameters are chosen by.
      play: `(key, params, task) -> batch`: a trial to draw, or an episode after each step
        of adaptation.
      adapts: whether parameters adapt, rather than a memory.
    """

    learner: MetaLearner
    collect: CollectTask
    loss: Callable[[jax.Array], Loss]
    metrics: Mapping[str, Loss]
    axis: str
    places: tuple[int, ...]
    objective: Objective
    chosen: Objective
    chosen_place: int
    play: Callable[[jax.Array, MetaParams, EnvParams], Batch]
    adapts: bool = False
