"""Tic-tac-toe under hidden rules, solved: what is known of the lines bounds the return.

In a game that goes on, a completed line is known to be inactive: beside what was known
before the game, the board alone says what is known.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np

from metajax.rl.environments.tic_tac_toe import LINES

_PLACES = 3 ** np.arange(9)  # A board is a number; digits are empty, own, opponent's.


class Turns(NamedTuple):
    """The boards on which the agent moves with as many marks of either side.

    Lines are sets of bits, those that a move completes.
    """

    boards: np.ndarray  # [boards], their positions among all such boards
    complete: np.ndarray  # [boards], lines that are complete already
    cells: np.ndarray  # [boards, moves], the empty cells
    wins: np.ndarray  # [boards, moves], lines of the agent's move
    losses: np.ndarray  # [boards, moves, replies], lines of the opponent's reply
    follow: np.ndarray  # [boards, moves, replies], positions of the boards that follow


@functools.cache
def turns() -> tuple[np.ndarray, list[Turns]]:
    """All boards, and those on which the agent moves, by their marks.

    Returns:
      The position of each board, `[3^9]`, among those on which the agent moves, -1 for
      others; and the turns, those with most marks first.
    """
    digits = np.arange(3**9)[:, None] // _PLACES % 3
    lines = [
        (digits[:, LINES] == side).all(-1) @ (1 << np.arange(8)) for side in (1, 2)
    ]
    counts = [(digits == side).sum(-1) for side in (1, 2)]
    agents = np.flatnonzero((counts[0] == counts[1]) & (counts[0] < 5))
    position = np.full(3**9, -1)
    position[agents] = np.arange(len(agents))

    def turn(marks: int) -> Turns:
        boards = agents[counts[0][agents] == marks]
        cells = np.nonzero(digits[boards] == 0)[1].reshape(len(boards), -1)
        moved = boards[:, None] + _PLACES[cells]
        free = np.nonzero(digits[moved] == 0)[-1].reshape(*moved.shape, -1)
        replied = moved[..., None] + 2 * _PLACES[free]
        before = lines[0][boards] | lines[1][boards]
        wins = lines[0][moved] & ~before[:, None]
        losses = lines[1][replied] & ~before[:, None, None]
        follow = position[replied]
        return Turns(position[boards], before, cells, wins, losses, follow)

    return position, [turn(marks) for marks in (4, 3, 2, 1, 0)]


Choice = Callable[[np.ndarray, Turns], np.ndarray]


def solve(active: np.ndarray, choose: Choice) -> np.ndarray:
    """Values of the boards on which the agent moves, for a policy.

        value = choose over moves of  won + (1 - won) * (mean over replies of
                                      (1 - lost) * value of what follows - lost)

    Args:
      active: `[256, cases]`, the probability in a case (a rule, or what is known of it)
        that one at least of a set of lines is active.
      choose: `(values of the moves [boards, moves, cases], turns) -> [boards, cases]`.

    Returns:
      `[boards, cases]`; the empty board is the first.
    """
    values = np.zeros(
        (len(np.flatnonzero(turns()[0] >= 0)), active.shape[1]), active.dtype
    )
    for turn in turns()[1]:
        won = active[turn.wins]
        if turn.losses.shape[-1]:
            lost = active[turn.losses]
            won = won + (1 - won) * ((1 - lost) * values[turn.follow] - lost).mean(
                axis=2
            )
        values[turn.boards] = choose(won, turn)
    return values


def first_best(values: np.ndarray) -> np.ndarray:
    """The first of the best moves, `[boards, cases]`, but for errors of rounding."""
    best = values.max(axis=1, keepdims=True)
    return np.argmax(values > best - 1e-5, axis=1)


class TicTacToeReturns(NamedTuple):
    """Expected returns of one game by the rule, `[256]`, in the order of `all_rules`.

    The mean over any of the rules is the exact return on tasks drawn from them.
    """

    random: np.ndarray
    standard: np.ndarray  # Of a policy that is best where all eight lines are active.
    zero_shot: np.ndarray  # Of a policy that is best in a first game of unknown rules.
    rule_known: np.ndarray  # Of the best policy of each rule: bounds every game.


@functools.cache
def tic_tac_toe_returns() -> TicTacToeReturns:
    """Returns of four policies in `tic_tac_toe`, exact, by every rule.

    Returns:
      Four arrays. Nobody does better in the first game of a task from all 256 than the
      mean of `zero_shot`, nor in any game than that of `rule_known`.

    Example:
      >>> returns = tic_tac_toe_returns()
      >>> print(*(f"{values.mean():.3f}" for values in returns))
      0.217 0.574 0.656 0.943

    Note:
      Of moves that tie, the policies take the first cell: `standard` and, on single
      rules, `zero_shot` depend on that. `standard` goes on by the same reasoning where
      the game should be over: of the lines that a move completes, all are active.
    """
    rules = np.arange(256)
    active = (rules[:, None] & rules != 0).astype(np.float64)

    def by(score: Choice) -> Choice:
        def choose(moves, turn):
            best = first_best(score(moves, turn))[:, None]
            return np.take_along_axis(moves, best, axis=1)[:, 0]

        return choose

    def expected(moves, turn):  # Over the rules under which the game goes on.
        possible = (turn.complete[:, None, None] & rules) == 0
        return (moves * possible).sum(-1, keepdims=True) / possible.sum(
            -1, keepdims=True
        )

    policies = (
        lambda moves, turn: moves.mean(axis=1),
        by(lambda moves, turn: moves[..., 255:]),
        by(expected),
        lambda moves, turn: moves.max(axis=1),
    )
    return TicTacToeReturns(*(solve(active, choose)[0] for choose in policies))
