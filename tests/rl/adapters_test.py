"""Games of other libraries, where these are installed; their laws are with all others."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.rl import environments, exact
from metajax.rl.actions import among
from metajax.rl.environments.tic_tac_toe import LINES


@pytest.mark.parametrize(
    "build",
    [
        lambda: environments.from_pgx("connect_four", 21),
        lambda: environments.from_xminigrid("XLand-MiniGrid-R1-9x9", None, 60),
        environments.minigrid_rules,
    ],
)
def test_a_missing_library_is_one_line_with_the_remedy(build, monkeypatch):
    for name in ("pgx", "xminigrid", "xminigrid.core.constants"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[games\]'") as error:
        build()
    assert "\n" not in str(error.value)


def states(environment, key):
    """Task, states and what is shown of a random episode; after the end, the end again."""
    task_key, begin_key, key = jax.random.split(key, 3)
    params = environment.sample(task_key)
    begun = environment.reset(begin_key, params)

    def step(now, key):
        action_key, key = jax.random.split(key)
        legal = now[1].legal
        logits = jnp.zeros(environment.actions.number)
        action = among(logits, legal).sample(action_key)
        following = environment.step(key, now[0], action, params)
        now = jax.tree.map(lambda x, y: jnp.where(now[1].done, x, y), now, following)
        return now, (action, *now)

    _, later = jax.lax.scan(step, begun, jax.random.split(key, environment.horizon))
    return params, begun[1], *later


def many(environment, number):
    run = jax.jit(jax.vmap(functools.partial(states, environment)))
    return run(jax.random.split(jax.random.key(1), number))


def test_a_button_drops_a_stone_where_the_task_says():
    pytest.importorskip("pgx")
    environment = environments.from_pgx("connect_four", 21)
    params, begun, actions, _, shown = many(environment, 64)
    own = np.asarray(shown.observation[:, 0, :, :, 0])
    columns = own.sum(axis=1).argmax(axis=1)  # Of the first stone.
    first = actions[:, :1]
    np.testing.assert_array_equal(columns, np.take_along_axis(params, first, 1)[:, 0])
    stones = np.asarray(begun.observation).sum(axis=(1, 2))
    assert (stones[:, 0] == 0).all() and set(stones[:, 1]) == {0, 1}  # Either begins.


def test_random_play_of_tic_tac_toe_comes_to_its_value_from_the_agents_side():
    pytest.importorskip("pgx")
    environment = environments.from_pgx("tic_tac_toe", 5)
    _, begun, _, _, shown = many(environment, 4000)
    returns = np.where(
        np.roll(shown.done, 1, 1) & (np.arange(5) > 0), 0, shown.reward
    ).sum(1)
    value = exact.tic_tac_toe_returns().random[255]
    begins = np.asarray(begun.observation).sum(axis=(1, 2, 3)) == 0
    for side, expected in ((begins, value), (~begins, -value)):
        error = returns[side].std() / side.sum() ** 0.5
        assert abs(returns[side].mean() - expected) < 4 * error
    boards = np.asarray(shown.observation[:, -1]).reshape(-1, 9, 2)
    complete = (boards[:, LINES] > 0).all(axis=2).any(axis=1)  # [games, sides]
    np.testing.assert_array_equal(complete[:, 0], returns > 0)
    np.testing.assert_array_equal(complete[:, 1], returns < 0)


def test_the_goal_of_a_grid_world_is_to_stand_by_one_of_its_objects():
    pytest.importorskip("xminigrid")
    environment = environments.from_xminigrid(
        "XLand-MiniGrid-R1-9x9", environments.minigrid_rules(4), horizon=40
    )
    rules, _, _, now, shown = many(environment, 128)
    tiles = np.asarray(rules.init_tiles)
    assert tiles.shape == (128, 4, 2)
    assert all(len(np.unique(each, axis=0)) == 4 for each in tiles)
    assert len(np.unique(tiles[:, 0], axis=0)) > 20  # Goals differ.
    solved = np.asarray(shown.reward[:, -1]) > 0
    assert 5 < solved.sum() < 123 and np.asarray(shown.done[:, -1]).all()
    for index in np.flatnonzero(solved):
        grid = np.asarray(now.state.grid[index, -1])
        row, column = np.asarray(now.state.agent.position[index, -1])
        around = [(row - 1, column), (row + 1, column), (row, column - 1)]
        around.append((row, column + 1))
        assert any((grid[cell] == tiles[index, 0]).all() for cell in around)
        steps = np.asarray(now.state.step_num[index, -1])
        expected = 1 - 0.9 * steps / 40
        np.testing.assert_allclose(shown.reward[index, -1], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "library, wrong, named",
    [
        (
            "pgx",
            lambda: environments.from_pgx("chequers", 9),
            "'chequers'.*connect_four",
        ),
        ("pgx", lambda: environments.from_pgx("hex", 0), "at least 1: got 0"),
        (
            "xminigrid",
            lambda: environments.from_xminigrid("MiniGrid-Empty-5x5", None, 9),
            "'MiniGrid-Empty-5x5'.*XLand-MiniGrid-R1-9x9",
        ),
        (
            "xminigrid",
            lambda: environments.from_xminigrid("XLand-MiniGrid-R1-9x9", None, 0),
            "at least 1: got 0",
        ),
        ("xminigrid", lambda: environments.minigrid_rules(1), "2 to 60: got 1"),
    ],
)
def test_bad_input_is_one_clear_line(library, wrong, named):
    pytest.importorskip(library)
    with pytest.raises(ValueError, match=named) as error:
        wrong()
    assert "\n" not in str(error.value)
