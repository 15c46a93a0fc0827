"""What each part of a game sees, for `policies.per_part`."""

import jax
import jax.numpy as jnp

from metajax.rl.base import Seen
from metajax.rl.environments.tic_tac_toe import LINES
from metajax.rl.policies import View, time_left


def each_arm(arms: int) -> View:
    """What each arm of a bandit sees: whether it was pulled, what it gave, and the time.

        [pulled, pulled * reward, begins, log(1 + left)]

    Args:
      arms: how many.

    Returns:
      `seen -> [arms, 4]`, for `per_part`.
    """

    def view(seen: Seen) -> jax.Array:
        pulled = jax.nn.one_hot(seen.action, arms) * ~seen.begins
        same = jnp.stack([seen.begins.astype(jnp.float32), time_left(seen)])
        each = jnp.stack([pulled, pulled * seen.reward], axis=1)
        return jnp.concatenate([each, jnp.broadcast_to(same, (arms, 2))], axis=1)

    return view


def each_pair(actions: int) -> View:
    """What each pair of a state and an action of a table sees of the last decision.

        [taken, taken * reward, is the state now, begins, log(1 + left)]

    Args:
      actions: how many; observations are states as one-hot vectors, `[states]`.

    Returns:
      `seen -> [states * actions, 5]`, for `per_part`.
    """

    def view(seen: Seen) -> jax.Array:
        last = jax.nn.one_hot(seen.action, actions)
        taken = jnp.outer(seen.before, last).ravel()
        now = jnp.repeat(seen.observation, actions)
        same = jnp.stack([seen.begins.astype(jnp.float32), time_left(seen)])
        each = jnp.stack([taken, taken * seen.reward, now], axis=1)
        return jnp.concatenate([each, jnp.broadcast_to(same, (len(each), 2))], axis=1)

    return view


def pairs_of_the_state(actions: int) -> View:
    """An action is about its pair with the state now.

    Args:
      actions: how many.

    Returns:
      `seen -> [actions, states * actions]`.
    """

    def about(seen: Seen) -> jax.Array:
        each = jnp.einsum("s,ab->asb", seen.observation, jnp.eye(actions))
        return each.reshape(actions, -1)

    return about


def each_line(seen: Seen) -> jax.Array:
    """What each line of tic-tac-toe sees: how many marks are on it, now and at the end.

    Counts of own and of other marks, 0 to 3 as one-hot vectors, in `observation` and in
    `led_to`, the reward, whether a game or a trial begins, and the time.

    Returns:
      `[8, 20]`.
    """

    def counts(board: jax.Array) -> jax.Array:
        marks = board[LINES].sum(axis=1).astype(jnp.int32)  # [8, 2]
        return jax.nn.one_hot(marks, 4).reshape(8, 8)

    same = jnp.stack(
        [
            seen.reward,
            *(x.astype(jnp.float32) for x in (seen.first, seen.begins)),
            time_left(seen),
        ]
    )
    return jnp.concatenate(
        [counts(seen.observation), counts(seen.led_to), jnp.broadcast_to(same, (8, 4))],
        axis=1,
    )


def through_each_cell(seen: Seen) -> jax.Array:
    """Which lines go through each cell, `[9, 8]`: what a move is about."""
    del seen
    return jnp.asarray(
        (LINES[None] == jnp.arange(9)[:, None, None]).any(axis=2), jnp.float32
    )
