"""Tic-tac-toe whose winning lines are hidden."""

from experiments.door import Part
from experiments.meta_rl.flags import one_of
from experiments.meta_rl.parts import Game, PerPart

TESTED_RULES = one_of(
    "tested_rules",
    "unseen",
    ["unseen", "seen"],
    "Rules to report on: 56 that are for tests alone, or those of training, which tells "
    "what of them is known by heart.",
)


def make(*, tested_rules: str) -> Game:
    """Rules in three parts, of which 56 are for tests alone."""
    import jax.numpy as jnp
    import numpy as np

    from experiments.meta_rl import pictures
    from metajax import rl

    train, validation, test = rl.environments.split_rules()
    if tested_rules == "seen":
        test = train
    games = [rl.environments.tic_tac_toe(rules) for rules in (train, validation, test)]

    def number(rules):
        return rules @ (1 << np.arange(8))

    def known(task):
        each = jnp.asarray(rl.exact.tic_tac_toe_returns().rule_known, jnp.float32)
        return each[task @ (1 << jnp.arange(8))]

    def bounds(episodes: int) -> dict[str, np.ndarray]:
        returns = rl.exact.tic_tac_toe_returns()
        names = {
            "rule known": returns.rule_known,
            "best first game of all 256 rules": returns.zero_shot,
            "random": returns.random,
        }
        return {
            name: np.full(episodes, each[number(test)].mean())
            for name, each in names.items()
        }

    return Game(
        games[0],
        *[game.sample for game in games],
        episode="game",
        per_part=PerPart(8, rl.views.each_line, rl.views.through_each_cell),
        known=known,
        bounds=bounds,
        players={
            "random": lambda episodes: rl.exact.random_policy(games[0]),
            "belief": lambda episodes: rl.exact.belief_play(),
        },
        draw=pictures.boards,
    )


GAME = Part("tic-tac-toe in which hidden lines alone win", make, (TESTED_RULES,))
