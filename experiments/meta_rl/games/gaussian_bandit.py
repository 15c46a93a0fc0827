"""Bandits whose arms pay normal rewards."""

from experiments.door import Part
from experiments.meta_rl.flags import not_negative, number
from experiments.meta_rl.games.bandit import ARMS, of_arms
from experiments.meta_rl.parts import Game

REWARD_STD = number("reward_std", 1.0, "Standard deviation of the rewards of an arm.")
not_negative(REWARD_STD)


def make(*, arms: int, reward_std: float) -> Game:
    """Arms whose means are standard normal."""
    from metajax import rl

    environment = rl.environments.gaussian_bandit(arms, reward_std)
    return of_arms(environment, arms, {}, lambda pulls: {})


GAME = Part("arms that pay around a mean of their own", make, (ARMS, REWARD_STD))
