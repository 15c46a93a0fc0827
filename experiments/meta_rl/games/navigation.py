"""A point that looks for its goal in the plane."""

from experiments.door import Part
from experiments.meta_rl.flags import integer
from experiments.meta_rl.parts import Game

PATIENCE = integer("patience", 100, "Steps of an episode at most.", 1)


def make(*, patience: int) -> Game:
    """Goals uniform in a square; tests are the 40 goals of the paper's code, in order."""
    import jax

    from experiments.meta_rl import pictures
    from metajax import rl
    from metajax.streams import Frozen

    environment = rl.environments.navigation(patience)
    goals = rl.environments.original_goals()
    keys = jax.random.split(jax.random.key(0), 40)
    return Game(
        environment,
        train=environment.sample,
        validation=Frozen(jax.vmap(environment.sample)(keys)),
        test=Frozen(goals),
        known=lambda task: rl.exact.navigation_optimum(task, patience),
        players={"random": lambda episodes: rl.exact.random_policy(environment)},
        draw=pictures.paths,
    )


GAME = Part("a point that looks for its goal in the plane", make, (PATIENCE,))
