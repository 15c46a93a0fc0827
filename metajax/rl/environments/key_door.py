"""A small maze with a key and a door, which differ from task to task."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.rl.base import Discrete, Environment, TimeStep

SIZE = 7  # Cells of a side.
LONGEST = 34  # Steps of the shortest way by the key to the door, in the worst task.
SIGHT = 2  # Cells that the agent sees in each direction.
MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)  # Up, down, left, right.


class Maze(NamedTuple):
    """A layout with a key and a door."""

    walls: jax.Array  # bool[7, 7]
    key: jax.Array  # int32[2], row and column
    door: jax.Array  # int32[2]


def key_door(horizon: int = 40) -> Environment:
    """A maze of 7 x 7 cells: find the key, then the door.

    The layout, the key and the door are the task, so that a second episode can be quicker
    than the first. Each episode begins in the corner [0, 0]; it ends at the door with the
    key, or at the horizon. Every task can be solved in 34 steps.

        reward = 1 - 0.5 * steps / horizon    at the door with the key, else 0

    Nine pillars stand in odd rows and columns; from each a wall of one cell goes right, or
    down, or none does. No walls close a ring, so that every free cell can be reached.

    Args:
      horizon: steps of an episode at most.

    Returns:
      An environment whose params are a `Maze`. It shows the 5 x 5 cells around the agent,
      as walls, key (until it is taken) and door, and whether it holds the key, in one
      vector, float32 `[76]`. Actions: up, down, left, right; a wall stops a move.

    Raises:
      ValueError: if the horizon is too short for some task.

    Example:
      >>> environment = key_door()
      >>> _, shown = environment.reset(key := jax.random.key(0), environment.sample(key))
      >>> shown.observation.shape
      (76,)

    Note:
      A family of our own, after the key-and-door rooms of MiniGrid, whose optimum is known:
      see `key_door_optimum`.
    """
    if horizon < LONGEST:
        raise ValueError(
            f"key_door: horizon must be at least {LONGEST}, the steps that some tasks "
            f"need: got {horizon}."
        )

    def reset(key, params):
        position, holds = jnp.zeros(2, jnp.int32), jnp.array(False)
        seen = _view(params, position, holds)
        return (position, holds, jnp.int32(0)), TimeStep(
            seen, jnp.float32(0), jnp.array(False)
        )

    def step(key, state, action, params):
        position, holds, time = state
        position = moved(params.walls, position, action)
        holds |= jnp.all(position == params.key)
        solved = holds & jnp.all(position == params.door)
        reward = jnp.where(solved, 1 - 0.5 * (time + 1) / horizon, 0)
        shown = TimeStep(
            _view(params, position, holds), reward, solved | (time + 1 >= horizon)
        )
        return (position, holds, time + 1), shown

    return Environment(_sample, reset, step, Discrete(len(MOVES)), horizon)


def moved(walls: jax.Array, position: jax.Array, action: jax.Array) -> jax.Array:
    """Where a move leads."""
    ahead = jnp.clip(position + jnp.asarray(MOVES)[action], 0, SIZE - 1)
    return jnp.where(walls[ahead[0], ahead[1]], position, ahead)


def _sample(key: jax.Array) -> Maze:
    wall_key, place_key = jax.random.split(key)
    pillars = np.stack(np.meshgrid(*[np.arange(1, SIZE, 2)] * 2), -1).reshape(-1, 2)
    steps = jnp.array([[0, 0], [0, 1], [1, 0]])
    ends = pillars + steps[jax.random.randint(wall_key, (len(pillars),), 0, 3)]
    walls = jnp.zeros((SIZE, SIZE), bool).at[pillars[:, 0], pillars[:, 1]].set(True)
    walls = walls.at[ends[:, 0], ends[:, 1]].set(True)
    free = ~walls.at[0, 0].set(True).ravel()  # Neither lies where the agent begins.
    order = jnp.where(free, jax.random.uniform(place_key, free.shape), -1)
    places = jax.lax.top_k(order, 2)[1]
    first, second = jnp.stack(jnp.divmod(places, SIZE), axis=-1).astype(jnp.int32)
    return Maze(walls, first, second)


def _view(params: Maze, position: jax.Array, holds: jax.Array) -> jax.Array:
    width = 2 * SIGHT + 1
    padded = jnp.pad(params.walls, SIGHT, constant_values=True)
    walls = jax.lax.dynamic_slice(padded, position, (width, width))
    rows = jnp.arange(width) - SIGHT

    def there(place):
        away = place - position
        return jnp.outer(rows == away[0], rows == away[1])

    cells = jnp.stack([walls, there(params.key) & ~holds, there(params.door)])
    return jnp.append(cells.ravel(), holds).astype(jnp.float32)
