"""Tic-tac-toe under hidden rules by what is known of each line: a yardstick over games."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metajax.rl.actions import among
from metajax.rl.base import Decision, Policy, Seen, along
from metajax.rl.environments.tic_tac_toe import LINES
from metajax.rl.exact.tic_tac_toe import first_best, solve, turns

_CHANCES = np.array([0.5, 0, 1], np.float32)  # Of a line: unknown, inactive, active.
_DIGITS = 3 ** np.arange(8)  # A belief is a number, with a digit for each line.


def belief_play() -> Policy:
    """Plays each game of `tic_tac_toe` as if it were the last, best for what is known.

    Of each line the memory has whether it is unknown (active with probability 1/2),
    inactive (it was complete and the game went on) or active (it alone ended a game).
    Each of these 6561 beliefs is solved exactly, once, in some seconds.

    Returns:
      A policy without params. It explores for the game that it is in, not for later ones:
      a learner that plans over a trial may do better, but not in the first game.

    Note:
      That one of several lines, completed by one move, must be active is forgotten. Of
      moves that tie it takes the first cell.
    """
    position = jnp.asarray(turns()[0], jnp.int16)
    moves = jnp.asarray(belief_moves())

    def step(params, memory, seen: Seen):
        belief = jnp.where(seen.begins, memory, _learnt(memory, seen))
        board = (seen.observation @ jnp.array([1, 2.0])).astype(jnp.int32)
        place = position[board @ (3 ** jnp.arange(9))]
        cell = moves[belief @ _DIGITS, place]
        choice = among(jnp.zeros(9), jnp.arange(9) == cell)
        return belief, Decision(choice, jnp.float32(0))

    def start(params):
        return jnp.zeros(8, jnp.int32)

    return Policy(lambda key, seen: (), start, step, along(start, step))


def _learnt(belief: jax.Array, seen: Seen) -> jax.Array:
    """What the last action has told of the lines; `belief`, int32 `[8]`."""
    own, opponents = jnp.moveaxis((seen.led_to[LINES] > 0).all(axis=1), -1, 0)
    won, lost = seen.reward > 0, seen.reward < 0
    went_on = (own & ~won) | (opponents & ~lost)
    belief = jnp.where(went_on & (belief == 0), 1, belief)
    ending = ((own & won) | (opponents & lost)) & (belief != 1)
    return jnp.where(ending & (ending.sum() == 1), 2, belief)


@functools.cache
def belief_moves() -> np.ndarray:
    """The best cell, int8 `[beliefs, boards]`, by belief and board, as `turns` has them."""
    beliefs = np.arange(3**8)
    cells = np.zeros((len(beliefs), len(np.flatnonzero(turns()[0] >= 0))), np.int8)
    for some in np.split(beliefs, 27):  # Few enough at a time for the memory.

        def choose(moves, turn, some=some):
            best = first_best(moves)
            cells[some[:, None], turn.boards] = np.take_along_axis(
                turn.cells, best, axis=1
            ).T
            return np.take_along_axis(moves, best[:, None], axis=1)[:, 0]

        solve(chance_active(some), choose)
    return cells


def chance_active(beliefs: np.ndarray) -> np.ndarray:
    """The probability, `[256, beliefs]`, that one at least of a set of lines is active."""
    inactive = 1 - _CHANCES[beliefs[:, None] // _DIGITS % 3]
    among_lines = (np.arange(256)[:, None, None] >> np.arange(8)) % 2 == 1
    return 1 - np.where(among_lines, inactive, np.float32(1)).prod(axis=-1)
