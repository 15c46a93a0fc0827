"""The shortest way through a maze that is known."""

import jax
import jax.numpy as jnp

from metajax.rl.environments.key_door import SIZE, Maze


def key_door_optimum(params: Maze, horizon: int = 40) -> jax.Array:
    """The best return of an episode of `key_door`, for one who knows the maze.

        1 - 0.5 * (steps from the corner to the key + from the key to the door) / horizon

    Args:
      params: the maze of one task; `vmap` for more.
      horizon: that of the environment.

    Returns:
      float32 `[]`. It bounds every episode of every learner.

    Example:
      >>> walls = jnp.zeros((7, 7), bool)
      >>> maze = Maze(walls, jnp.array([0, 3]), jnp.array([2, 3]))
      >>> print(key_door_optimum(maze))
      0.9375
    """
    steps = _steps_from(params.walls, params.key)
    door = params.door
    return 1 - 0.5 * (steps[0, 0] + steps[door[0], door[1]]) / horizon


def _steps_from(walls: jax.Array, place: jax.Array) -> jax.Array:
    """Steps of the shortest ways to all cells, `[7, 7]`."""

    def nearer(steps, _):
        around = jnp.pad(steps, 1, constant_values=jnp.inf)
        ways = (
            around[:-2, 1:-1],
            around[2:, 1:-1],
            around[1:-1, :-2],
            around[1:-1, 2:],
        )
        for way in ways:
            steps = jnp.minimum(steps, way + 1)
        return jnp.where(walls, jnp.inf, steps), None

    begin = jnp.full((SIZE, SIZE), jnp.inf).at[place[0], place[1]].set(0)
    return jax.lax.scan(nearer, begin, length=SIZE * SIZE)[0]
