"""Tic-tac-toe under hidden rules: which of the eight lines win is the task."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Key
from metajax.rl.base import Discrete, Environment, TimeStep

# The cells of each line: rows, columns, diagonals.
LINES = np.array(
    [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [0, 3, 6],
        [1, 4, 7],
        [2, 5, 8],
        [0, 4, 8],
        [2, 4, 6],
    ]
)
_INCIDENCE = np.zeros((8, 9), np.float32)
np.put_along_axis(_INCIDENCE, LINES, 1, axis=1)


def all_rules() -> np.ndarray:
    """The 256 sets of lines, bool `[256, 8]`: rule r has line l where r has bit l.

    Example:
      >>> all_rules()[5].nonzero()[0]
      array([0, 2])
    """
    return (np.arange(256)[:, None] >> np.arange(8)) % 2 == 1


def split_rules(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 256 rules in three parts: for training, for validation, and unseen ones for test.

    Rules are sorted by the number of their lines and cut into eight groups of 32; of each,
    22, 3 and 7 at random go into the parts, so that all parts are about equally hard.

    Args:
      seed: of the choice.

    Returns:
      bool `[176, 8]`, `[24, 8]` and `[56, 8]`.

    Example:
      >>> [len(rules) for rules in split_rules()]
      [176, 24, 56]
    """
    random = np.random.RandomState(seed)  # Its stream is frozen.
    order = random.permutation(256)
    order = order[np.argsort(all_rules()[order].sum(axis=1), kind="stable")]
    groups = np.stack([random.permutation(group) for group in order.reshape(8, 32)])
    parts = np.split(groups, [22, 25], axis=1)
    train, validation, test = (all_rules()[part.ravel()] for part in parts)
    return train, validation, test


def tic_tac_toe(rules: np.ndarray | None = None) -> Environment:
    """Tic-tac-toe in which hidden lines alone win, against a random opponent.

    The agent moves first; the opponent takes any empty cell with equal probability. Three
    in a row on an active line wins, with reward 1, or loses, with -1; other rows of three
    are nothing, and a full board is a draw, with 0. An illegal move loses.

    Args:
      rules: bool `[rules, 8]`, the lines that are active, in the order of `LINES`: a task
        is one of them with equal probability. All 256 by default.

    Returns:
      An environment whose params are the active lines, bool `[8]`, and which shows the
      marks, float32 `[9, 2]`: the agent's own, then the opponent's.

    Raises:
      ValueError: if `rules` is no bool `[rules, 8]`, is empty, or has no line at all.

    Example:
      >>> environment = tic_tac_toe(all_rules()[255:])
      >>> _, shown = environment.reset(key := jax.random.key(0), environment.sample(key))
      >>> shown.observation.shape, int(shown.legal.sum())
      ((9, 2), 9)

    Note:
      A family of our own, whose optima are known: see `metajax.rl.exact`. The rule without
      a line, which is among the 256, is always a draw.
    """
    possible = jnp.asarray(_checked(all_rules() if rules is None else rules))

    def sample(key: Key):
        return possible[jax.random.randint(key, (), 0, len(possible))]

    def shown(board, reward, done):
        return TimeStep(board, reward, done, legal=board.sum(axis=-1) == 0)

    def reset(key, params):
        board = jnp.zeros((9, 2))
        return board, shown(board, jnp.float32(0), jnp.array(False))

    def step(key, state, action, params):
        illegal = state[action].sum() > 0
        board = state.at[action, 0].set(1)
        won = _complete(board[:, 0], params) & ~illegal
        empty = board.sum(axis=-1) == 0
        over = won | illegal | ~empty.any()
        reply = jnp.argmax(jnp.where(empty, jax.random.uniform(key, (9,)), -1))
        board = jnp.where(over, board, board.at[reply, 1].set(1))
        lost = _complete(board[:, 1], params)
        reward = won.astype(jnp.float32) - (lost | illegal)
        return board, shown(board, reward, over | lost)

    return Environment(sample, reset, step, Discrete(9), horizon=5)


def _complete(marks: jax.Array, active: jax.Array) -> jax.Array:
    """Whether the marks, `[9]`, fill one of the active lines."""
    return jnp.any((_INCIDENCE @ marks > 2.5) & active)


def _checked(rules: np.ndarray) -> np.ndarray:
    rules = np.asarray(rules)
    if rules.dtype != bool or rules.ndim != 2 or rules.shape[1] != 8 or not len(rules):
        raise ValueError(
            "tic_tac_toe: rules must be bool[rules, 8] with at least one rule, such as "
            f"split_rules()[0]: got {rules.dtype}{list(rules.shape)}."
        )
    if not rules.any():
        raise ValueError(
            "tic_tac_toe: none of the rules has a line, so that every game is a draw: "
            "give rules with a line to win on."
        )
    return rules
