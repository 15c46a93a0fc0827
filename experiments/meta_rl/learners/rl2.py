"""RL^2: a memory that learns along a trial, trained by what the trial earns."""

from experiments.door import Part
from experiments.meta_rl.flags import integer
from experiments.meta_rl.outer import CREDIT, OUTER_LOSS
from experiments.meta_rl.parts import Learning

EPISODES = integer(
    "episodes",
    10,
    "Episodes of a trial; of maml and fomaml, those between two steps of adaptation.",
    1,
)
_SHOWN = 12  # Places along a long trial.


def places(num_episodes: int) -> tuple[int, ...]:
    """Numbers of episodes after which a trial is looked at: all, or a dozen."""
    import numpy as np

    if num_episodes <= _SHOWN:
        return tuple(range(1, num_episodes + 1))
    each = np.geomspace(1, num_episodes, _SHOWN).round().astype(int)
    return tuple(sorted({int(place) for place in each}))


def along_trials(game, policy, num_episodes: int, *, collect, loss, metrics):
    """How a policy is measured whose memory learns: episode by episode of a trial."""
    from experiments.meta_rl import measuring
    from metajax import rl

    at = places(num_episodes)
    return Learning(
        learner=rl.rl2(policy),
        collect=collect,
        loss=loss,
        metrics=metrics,
        axis=f"{game.episode}s",
        places=at,
        objective=measuring.of_trials(game, policy, num_episodes, at),
        chosen=measuring.of_trials(game, policy, num_episodes, (num_episodes,)),
        chosen_place=num_episodes,
        play=rl.trial(game.environment, policy, num_episodes),
    )


def make(
    game, policy, *, episodes, outer_loss, discount, decay, reward_scale
) -> Learning:
    """RL^2 in a game."""
    from metajax import rl

    credit = rl.Credit(discount, decay, reward_scale)
    collect = rl.along_trial(rl.trial(game.environment, policy, episodes, credit))
    metrics = {"return": rl.losses.total_reward, "entropy": rl.losses.entropy}
    return along_trials(
        game, policy, episodes, collect=collect, loss=outer_loss, metrics=metrics
    )


LEARNER = Part(
    "a memory that learns along a trial, by reinforcement",
    make,
    (EPISODES, OUTER_LOSS, *CREDIT),
)
