"""Algorithm distillation: a memory that learns to learn as another algorithm does."""

from experiments.door import Part
from experiments.meta_rl.flags import one_of
from experiments.meta_rl.learners.rl2 import EPISODES, along_trials

TEACHER = one_of(
    "teacher",
    "thompson",
    ["thompson", "ucb1", "gittins", "greedy"],
    "The player of the game whose histories are imitated.",
)


def make(game, policy, *, episodes, teacher):
    """Imitation of a player that learns along a trial."""
    from metajax import rl

    if teacher not in game.players:
        raise ValueError(
            f"--learner=distillation needs a teacher, and --teacher={teacher} does not "
            f"play this --game: its players are {', '.join(game.players) or 'none'}."
        )
    history = rl.trial(game.environment, game.players[teacher](episodes), episodes)

    def collect(key, meta, task):
        del meta  # The teacher acts.
        return rl.along_trial(history)(key, (), task)

    return along_trials(
        game,
        policy,
        episodes,
        collect=collect,
        loss=lambda progress: rl.losses.imitation,
        metrics={"teacher_return": rl.losses.total_reward},
    )


LEARNER = Part(
    "a memory that imitates how another algorithm learns", make, (EPISODES, TEACHER)
)
