"""Games of other libraries, by `pip install 'metajax[games]'`."""

from collections.abc import Callable
import importlib
from types import ModuleType
import warnings

import jax
import jax.numpy as jnp

from metajax.base import Key, PyTree
from metajax.rl.actions import among
from metajax.rl.base import Discrete, Environment, TimeStep


def from_pgx(name: str, horizon: int) -> Environment:
    """A game of pgx against a random opponent, with its buttons mixed up.

        action of the game = params[action],    params ~ uniform over permutations

    What each button does is the task: an agent has to find out, and can do so while it
    plays. The others of the game move with equal probability among what is legal; who
    begins is up to the game.

    Args:
      name: as in `pgx.available_envs()`, such as "connect_four".
      horizon: decisions of the agent at most in an episode, such as 21 in connect four.

    Returns:
      An environment whose params are the permutation, int32 `[actions]`. It shows what pgx
      shows the agent, as float32.

    Raises:
      ImportError: if pgx is not installed.
      ValueError: if there is no such game, or the horizon is less than 1.

    Source:
      Koyamada et al. 2023 (Pgx, arXiv 2303.17503).
    """
    pgx = _library("pgx")
    if name not in pgx.available_envs():
        games = ", ".join(pgx.available_envs())
        raise ValueError(f"from_pgx: no game {name!r}; there are {games}.")
    if horizon < 1:
        raise ValueError(f"from_pgx: horizon must be at least 1: got {horizon}.")
    game = pgx.make(name)
    agent = jnp.int32(0)

    def agents_turn(key: Key, state):
        """Lets the others move; also what the agent has earned by all moves since."""

        def waits(now):
            state = now[0]
            return (state.current_player != agent) & ~(
                state.terminated | state.truncated
            )

        def move(now):
            state, reward, key = now
            key, draw_key, move_key = jax.random.split(key, 3)
            legal = state.legal_action_mask
            action = among(jnp.zeros(legal.shape), legal).sample(draw_key)
            state = game.step(state, action, move_key)
            return state, reward + state.rewards[agent], key

        return jax.lax.while_loop(waits, move, (state, state.rewards[agent], key))[:2]

    def shown(state, reward, params) -> TimeStep:
        with warnings.catch_warnings():  # Of a final board nothing else has both sides.
            warnings.simplefilter("ignore", DeprecationWarning)
            seen = game.observe(state, agent).astype(jnp.float32)
        done = state.terminated | state.truncated
        return TimeStep(seen, reward, done, state.legal_action_mask[params])

    def reset(key, params):
        begin_key, key = jax.random.split(key)
        state, _ = agents_turn(key, game.init(begin_key))
        return state, shown(state, jnp.float32(0), params)

    def step(key, state, action, params):
        move_key, key = jax.random.split(key)
        state, reward = agents_turn(key, game.step(state, params[action], move_key))
        return state, shown(state, reward, params)

    def sample(key):
        return jax.random.permutation(key, game.num_actions)

    return Environment(sample, reset, step, Discrete(game.num_actions), horizon)


def from_xminigrid(
    name: str, rules: Callable[[Key], PyTree], horizon: int
) -> Environment:
    """A grid world of XLand-MiniGrid whose hidden goal is the task.

        reward = 1 - 0.9 * steps / horizon    when the goal is reached, else 0

    Args:
      name: such as "XLand-MiniGrid-R1-9x9"; others of the library have no rulesets.
      rules: `key -> ruleset`, such as `minigrid_rules()`, all of one shape.
      horizon: steps of an episode at most.

    Returns:
      An environment whose params are the ruleset. It shows the cells before the agent,
      float32 `[5, 5, 25]`: which of 13 tiles, and which of 12 colours, as one-hot vectors.

    Raises:
      ImportError: if xminigrid is not installed.
      ValueError: if the name is no such world, or the horizon is less than 1.

    Source:
      Nikulin et al. 2023 (XLand-MiniGrid, arXiv 2312.12044).

    Note:
      Where objects and agent begin is drawn anew in each episode: what lasts is the goal.
    """
    xminigrid = _library("xminigrid")
    constants = _library("xminigrid.core.constants")
    worlds = [n for n in xminigrid.registered_environments() if n.startswith("XLand")]
    if name not in worlds:
        raise ValueError(f"from_xminigrid: no world {name!r}; use {', '.join(worlds)}.")
    if horizon < 1:
        raise ValueError(f"from_xminigrid: horizon must be at least 1: got {horizon}.")
    world, settings = xminigrid.make(name, max_steps=horizon)

    def shown(now) -> TimeStep:
        tiles, colors = jnp.moveaxis(now.observation, -1, 0)
        cells = jax.nn.one_hot(tiles, constants.NUM_TILES)
        colors = jax.nn.one_hot(colors, constants.NUM_COLORS)
        cells = jnp.concatenate([cells, colors], axis=-1)
        return TimeStep(cells, now.reward.astype(jnp.float32), now.last())

    def reset(key, params):
        now = world.reset(settings.replace(ruleset=params), key)
        return now, shown(now)

    def step(key, state, action, params):
        now = world.step(settings.replace(ruleset=params), state, action)
        return now, shown(now)

    return Environment(rules, reset, step, Discrete(constants.NUM_ACTIONS), horizon)


def minigrid_rules(objects: int = 5) -> Callable[[Key], PyTree]:
    """Rulesets of `from_xminigrid`: objects, of which one is the goal.

    The agent has to stand next to one of the objects, and is not told to which. Kinds and
    colours are drawn, no two objects being the same.

    Args:
      objects: in the room, 2 to 60.

    Returns:
      `key -> ruleset`.

    Raises:
      ImportError: if xminigrid is not installed.
      ValueError: if there are too few objects or too many.

    Note:
      Our own draws; the benchmarks of the library itself are downloaded.
    """
    if not 2 <= objects <= 60:
        raise ValueError(f"minigrid_rules: objects must be 2 to 60: got {objects}.")
    constants, goals = (_library(f"xminigrid.core.{n}") for n in ("constants", "goals"))
    no_rule = _library("xminigrid.core.rules").EmptyRule().encode()[None]
    ruleset = _library("xminigrid.types").RuleSet
    colors = jnp.array([c for c in range(1, 12) if c != constants.Colors.BLACK])
    kinds = constants.TILES_REGISTRY[constants.PICKABLE[:, None], colors[None]]

    def sample(key: Key):
        tiles = jax.random.permutation(key, kinds.reshape(-1, 2))[:objects]
        goal = goals.AgentNearGoal(tile=tiles[0]).encode()
        return ruleset(goal=goal, rules=no_rule, init_tiles=tiles)

    return sample


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(
            f"This game needs {package}: pip install 'metajax[games]'."
        ) from error
