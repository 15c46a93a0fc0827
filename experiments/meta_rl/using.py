"""A finished run that learned to play, to be used step by step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments import command
from experiments.meta_rl import door
from experiments.meta_rl.flags import FLAGS
from metajax import rl, trees


def load(workdir: Path, card: Mapping[str, Any]) -> rl.Player:
    """What a run has learned; see `metajax.rl.load`.

    Args:
      workdir: the run's directory, or that of one of its seeds.
      card: what `assembling` wrote down there.

    Raises:
      ValueError: if the run is of another version, or its parameters cannot be read.
    """
    with command.as_recorded(FLAGS, workdir):
        game, policy = door.game_and_policy()
        belongs_to = door.belongs_to()

    def init():
        sample_key, key = jax.random.split(jax.random.key(0))
        task = rl.examples(game.environment)(sample_key)
        return policy.init(key, task.support.inputs)

    like = jax.eval_shape(init)
    params = trees.load(workdir / "best.npz", like, belongs_to)
    return rl.Player(game.environment, policy, params, card["num_episodes"])
