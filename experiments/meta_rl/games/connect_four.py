"""Connect four of pgx, whose buttons are mixed up."""

from experiments.door import Part
from experiments.meta_rl.flags import switch
from experiments.meta_rl.parts import Game

MISERE = switch("misere", False, "In half of the tasks who has four in a row loses.")


def make(*, misere: bool) -> Game:
    """Connect four against a random opponent: which button drops where is the task."""
    from metajax import rl

    environment = rl.environments.from_pgx("connect_four", horizon=21)
    if misere:
        environment = rl.environments.or_misere(environment)
    return Game(
        environment,
        *[environment.sample] * 3,
        episode="game",
        players={"random": lambda episodes: rl.exact.random_policy(environment)},
    )


GAME = Part("connect four with mixed up buttons, by metajax[games]", make, (MISERE,))
