"""A maze with a key and a door."""

from experiments.door import Part
from experiments.meta_rl.parts import Game


def make() -> Game:
    """Mazes whose shortest ways are known."""
    from experiments.meta_rl import pictures
    from metajax import rl

    environment = rl.environments.key_door()
    return Game(
        environment,
        *[environment.sample] * 3,
        known=rl.exact.key_door_optimum,
        players={"random": lambda episodes: rl.exact.random_policy(environment)},
        draw=pictures.mazes,
    )


GAME = Part("a maze in which a key opens a door", make)
