"""A decision-pretrained policy: told the best actions along trials of anybody's."""

from experiments.door import Part
from experiments.meta_rl.learners.rl2 import EPISODES, along_trials


def make(game, policy, *, episodes):
    """Supervision by best actions, along trials of random actions."""
    from experiments.meta_rl import measuring
    from metajax import rl

    if game.right_action is None:
        raise ValueError(
            "--learner=dpt is taught best actions, which are not known of this --game: "
            "choose another learner."
        )
    environment = game.environment
    wander = rl.trial(environment, rl.exact.random_policy(environment), episodes)

    learning = along_trials(
        game,
        policy,
        episodes,
        collect=rl.along_trial_with(wander, game.right_action),
        loss=lambda progress: rl.losses.imitation,
        metrics={},
    )
    if game.posterior is None:
        return learning
    divergence = measuring.divergence(game, policy, wander, learning.places)
    return learning._replace(
        objective=measuring.together(learning.objective, divergence)
    )


LEARNER = Part(
    "a memory that is told the best actions along random trials", make, (EPISODES,)
)
