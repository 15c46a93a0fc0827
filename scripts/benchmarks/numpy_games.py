"""Two games by NumPy, many at a time: what a PyTorch loop would play.

Each begins anew where `restart` says so. `legal` is None where all actions are.
"""

import numpy as np

from metajax.rl.environments.tic_tac_toe import LINES, split_rules


class Bandits:
    """Bernoulli bandits, one pull an episode."""

    actions, size, horizon = 5, 1, 1

    def __init__(self, random: np.random.Generator, number: int):
        self._random = random
        self._means = random.random((number, self.actions))
        self._rows = np.arange(number)
        self.observation = np.zeros((number, 1), np.float32)
        self.legal = None

    def restart(self, over: np.ndarray) -> None:
        pass

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pulls arms; returns rewards and which episodes are over."""
        chances = self._means[self._rows, actions]
        rewards = (self._random.random(len(actions)) < chances).astype(np.float32)
        return rewards, np.ones(len(actions), bool)


class TicTacToes:
    """Tic-tac-toe in which hidden lines alone win, against a random opponent."""

    actions, size, horizon = 9, 18, 5

    def __init__(
        self,
        random: np.random.Generator,
        number: int,
        rules: np.ndarray | None = None,
    ):
        self._random = random
        rules = split_rules()[0] if rules is None else rules
        self._active = rules[random.integers(len(rules), size=number)]
        self._rows = np.arange(number)
        self._marks = np.zeros((number, 9, 2), np.float32)

    @property
    def observation(self) -> np.ndarray:
        return self._marks.reshape(-1, 18).copy()

    @property
    def legal(self) -> np.ndarray:
        return self._marks.sum(axis=2) == 0

    def restart(self, over: np.ndarray) -> None:
        self._marks[over] = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moves, and is answered; returns rewards and which games are over."""
        illegal = ~self.legal[self._rows, actions]
        self._marks[self._rows, actions, 0] = 1
        won = self._complete(0) & ~illegal
        empty = self.legal
        over = won | illegal | ~empty.any(axis=1)
        chances = np.where(empty, self._random.random(empty.shape), -1)
        replies, answered = chances.argmax(axis=1), ~over
        self._marks[self._rows[answered], replies[answered], 1] = 1
        lost = self._complete(1) & answered
        rewards = won.astype(np.float32) - (lost | illegal)
        return rewards, over | lost

    def _complete(self, player: int) -> np.ndarray:
        lines = self._marks[:, LINES, player].all(axis=2)
        return (lines & self._active).any(axis=1)


GAMES = {"bandit": Bandits, "tic_tac_toe": TicTacToes}
