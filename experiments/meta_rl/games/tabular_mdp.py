"""Random tables of rewards and transitions."""

from experiments.door import Part
from experiments.meta_rl.flags import integer
from experiments.meta_rl.parts import Game, PerPart

STATES = integer("states", 10, "Of the table.", 1)
ACTIONS = integer("actions", 5, "In each of its states.", 1)
HORIZON = integer("horizon", 10, "Steps of an episode.", 1)


def make(*, states: int, actions: int, horizon: int) -> Game:
    """Tables whose optimum is known by backward induction."""
    from metajax import rl

    environment = rl.environments.tabular_mdp(states, actions, horizon)
    return Game(
        environment,
        *[environment.sample] * 3,
        per_part=PerPart(
            states * actions,
            rl.views.each_pair(actions),
            rl.views.pairs_of_the_state(actions),
        ),
        known=lambda task: rl.exact.mdp_optimum(task, horizon).optimum,
        players={"random": lambda episodes: rl.exact.random_policy(environment)},
    )


GAME = Part(
    "random tables of rewards and transitions", make, (STATES, ACTIONS, HORIZON)
)
