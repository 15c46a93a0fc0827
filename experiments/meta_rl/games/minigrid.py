"""A grid world of XLand-MiniGrid whose goal is hidden."""

from experiments.door import Part
from experiments.meta_rl.flags import integer
from experiments.meta_rl.parts import Game

OBJECTS = integer("objects", 4, "In the room, one of which is the goal.", 2)
TIME = integer("time", 40, "Steps of an episode at most.", 1)


def make(*, objects: int, time: int) -> Game:
    """Rooms with objects: next to one of them, which the agent is not told, is the goal."""
    from metajax import rl

    rules = rl.environments.minigrid_rules(objects)
    environment = rl.environments.from_xminigrid("XLand-MiniGrid-R1-9x9", rules, time)
    return Game(
        environment,
        *[environment.sample] * 3,
        players={"random": lambda episodes: rl.exact.random_policy(environment)},
    )


GAME = Part("a room with a hidden goal, by metajax[games]", make, (OBJECTS, TIME))
