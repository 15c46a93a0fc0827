"""Every environment keeps the laws of games; each keeps its own."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.rl import environments, exact
from metajax.rl.actions import among
from metajax.rl.base import Continuous, Discrete
from metajax.rl.environments import tic_tac_toe as lines_game  # The function.
from metajax.rl.environments.tic_tac_toe import LINES

ENVIRONMENTS = {  # All of them: a new one adds a line.
    "bernoulli_bandit": lambda: environments.bernoulli_bandit(3),
    "gaussian_bandit": lambda: environments.gaussian_bandit(3, std=0.5),
    "tabular_mdp": lambda: environments.tabular_mdp(4, 3, horizon=5),
    "navigation": lambda: environments.navigation(horizon=12),
    "tic_tac_toe": environments.tic_tac_toe,
    "key_door": environments.key_door,
    "misere": lambda: environments.or_misere(environments.tic_tac_toe()),
    "pgx": lambda: environments.from_pgx("connect_four", horizon=21),
    "xminigrid": lambda: environments.from_xminigrid(
        "XLand-MiniGrid-R1-9x9", environments.minigrid_rules(), horizon=30
    ),
}
KEYS = jax.random.split(jax.random.key(0), 64)


@functools.cache
def build(name):
    return ENVIRONMENTS[name]()


@pytest.fixture(params=ENVIRONMENTS)
def name(request):
    if request.param in ("pgx", "xminigrid"):
        pytest.importorskip(request.param)
    return request.param


def random_action(key, environment, shown):
    if isinstance(environment.actions, Continuous):
        return jax.random.normal(key, (environment.actions.size,))
    return among(jnp.zeros(environment.actions.number), shown.legal).sample(key)


def random_episode(environment, key):
    """What is shown, `[horizon + 1, ...]`; after the end, the end again."""
    task_key, begin_key, key = jax.random.split(key, 3)
    params = environment.sample(task_key)
    begun = environment.reset(begin_key, params)

    def step(now, key):
        state, shown = now
        action_key, key = jax.random.split(key)
        action = random_action(action_key, environment, shown)
        following = environment.step(key, state, action, params)
        now = jax.tree.map(lambda x, y: jnp.where(shown.done, x, y), now, following)
        return now, now[1]

    _, later = jax.lax.scan(step, begun, jax.random.split(key, environment.horizon))
    shown = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), begun[1], later)
    return params, shown


@functools.cache
def episodes(name):
    return jax.jit(jax.vmap(functools.partial(random_episode, build(name))))(KEYS)


def test_many_are_what_one_is_and_a_key_says_all(name):
    one = jax.jit(functools.partial(random_episode, build(name)))
    for index in (0, 5, 0):
        expected = jax.tree.map(lambda x, i=index: x[i], episodes(name))
        for x, y in zip(jax.tree.leaves(one(KEYS[index])), jax.tree.leaves(expected)):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_tasks_differ(name):
    drawn = jax.tree.leaves(episodes(name)[0])
    assert any(
        len(np.unique(np.asarray(x).reshape(64, -1), axis=0)) > 30 for x in drawn
    )


def test_a_step_shows_and_keeps_the_same_kinds_of_arrays_as_a_reset(name):
    environment, key = build(name), KEYS[0]
    params = environment.sample(key)
    state, shown = jax.eval_shape(environment.reset, key, params)
    action = random_action(key, environment, environment.reset(key, params)[1])
    after = jax.eval_shape(environment.step, key, state, action, params)
    assert jax.tree.structure((state, shown)) == jax.tree.structure(after)
    for x, y in zip(jax.tree.leaves((state, shown)), jax.tree.leaves(after)):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert (shown.reward.shape, shown.reward.dtype) == ((), jnp.float32)
    assert (shown.done.shape, shown.done.dtype) == ((), jnp.bool_)
    if shown.legal is not None:
        expected = ((environment.actions.number,), jnp.bool_)
        assert (shown.legal.shape, shown.legal.dtype) == expected


def test_a_second_step_or_task_compiles_nothing(name):
    environment = build(name)
    reset, step = jax.jit(environment.reset), jax.jit(environment.step)
    for key in KEYS[:2]:
        params = environment.sample(key)
        state, shown = reset(key, params)
        for _ in range(2):
            action = random_action(key, environment, shown)
            state, shown = step(key, state, action, params)
    assert reset._cache_size() == step._cache_size() == 1


def test_rewards_are_finite_and_episodes_end_by_the_horizon(name):
    _, shown = episodes(name)
    assert np.isfinite(shown.reward).all()
    np.testing.assert_array_equal(shown.reward[:, 0], 0)
    assert not shown.done[:, 0].any() and shown.done[:, -1].all()


def test_there_is_a_legal_action_as_long_as_an_episode_goes_on(name):
    environment, (_, shown) = build(name), episodes(name)
    assert isinstance(environment.actions, Discrete | Continuous)
    if shown.legal is not None:
        assert (shown.legal.any(axis=-1) | shown.done).all()


def test_arms_pay_what_their_params_say():
    keys = jax.random.split(jax.random.key(1), 20000)

    def pulls(environment, params):
        step = jax.vmap(environment.step, (0, None, None, None))
        return np.asarray(step(keys, (), 1, params)[1].reward)

    paid = pulls(environments.bernoulli_bandit(2), jnp.array([0.9, 0.3]))
    assert set(paid) == {0, 1} and abs(paid.mean() - 0.3) < 4 * (0.21 / 20000) ** 0.5
    paid = pulls(environments.gaussian_bandit(2, std=0.5), jnp.array([0.9, -2.0]))
    assert abs(paid.mean() + 2) < 4 * 0.5 / 20000**0.5
    assert abs(paid.std() - 0.5) < 4 * 0.5 / 40000**0.5


def test_tables_are_drawn_and_followed_as_they_say():
    environment = environments.tabular_mdp(states=3, actions=2, horizon=4)
    keys = jax.random.split(jax.random.key(1), 20000)
    tables = jax.vmap(environment.sample)(keys)
    np.testing.assert_allclose(tables.transitions.sum(-1), 1, rtol=1e-5)
    # A flat Dirichlet of three has marginals of mean 1/3 and variance 1/18.
    shares = np.asarray(tables.transitions[:, 1, 0, 2])
    assert abs(shares.mean() - 1 / 3) < 4 * (1 / 18 / 20000) ** 0.5
    assert abs(shares.var() - 1 / 18) < 0.002
    means = np.asarray(tables.means[:, 2, 1])
    assert abs(means.mean() - 1) < 4 / 20000**0.5 and abs(means.std() - 1) < 0.02

    one = jax.tree.map(lambda x: x[0], tables)
    step = jax.vmap(environment.step, (0, None, None, None))
    _, shown = step(keys, (2, 0), 1, one)
    chances = np.asarray(one.transitions[2, 1])
    frequencies = shown.observation.mean(axis=0)
    assert (abs(frequencies - chances) < 4 * (chances / 20000) ** 0.5).all()
    assert abs(shown.reward.mean() - one.means[2, 1]) < 4 / 20000**0.5


def walk(environment, goal, act):
    state, shown = environment.reset(KEYS[0], goal)
    step, rewards = jax.jit(environment.step), []
    while not shown.done:
        state, shown = step(KEYS[0], state, act(shown.observation), goal)
        rewards.append(float(shown.reward))
    return rewards


def test_the_straight_way_to_the_original_goals_is_the_optimum():
    environment, goals = environments.navigation(), environments.original_goals()
    assert goals.shape == (40, 2)
    returns = [walk(environment, g, lambda x, g=g: 10 * (g - x)) for g in goals[:5]]
    expected = jax.vmap(exact.navigation_optimum)(goals)
    np.testing.assert_allclose([sum(r) for r in returns], expected[:5], atol=1e-5)
    np.testing.assert_allclose(expected.mean(), -0.544, atol=5e-4)
    rewards = walk(environment, goals[3], lambda x: jnp.zeros(2))
    np.testing.assert_allclose(
        sum(rewards), -100 * jnp.linalg.norm(goals[3]), rtol=1e-5
    )


def test_a_stride_is_no_longer_than_a_tenth_and_ends_near_the_goal_alone():
    environment, goal = environments.navigation(), jnp.array([0.105, 0.08])
    state, _ = environment.reset(KEYS[0], goal)
    state, shown = environment.step(KEYS[0], state, jnp.array([7.0, 1.0]), goal)
    np.testing.assert_allclose(shown.observation, [0.1, 0.1], rtol=1e-6)
    assert not shown.done  # 0.005 and 0.02 away.
    _, shown = environment.step(KEYS[0], state, jnp.array([0.0, -0.15]), goal)
    assert shown.done


def marked(own, others):
    board = jnp.zeros((9, 2))
    return board.at[jnp.array(own, int), 0].set(1).at[jnp.array(others, int), 1].set(1)


@pytest.mark.parametrize("line", range(8))
def test_a_line_wins_or_loses_where_it_is_active_alone(line):
    environment = environments.tic_tac_toe()
    active = jnp.arange(8) == line
    first, *rest = LINES[line].tolist()
    others = [cell for cell in range(9) if cell not in LINES[line]][:2]
    for params, reward in ((active, 1), (~active, 0)):
        board, shown = environment.step(KEYS[0], marked(rest, others), first, params)
        assert (shown.reward, shown.done) == (reward, reward == 1)
        assert board[:, 1].sum() == 3 - reward  # Who has lost makes no move.
    others = [cell for cell in range(9) if cell not in LINES[line]][:6]
    own = marked(others[:4], rest)  # Two cells are empty after the agent's move ...
    _, shown = environment.step(KEYS[0], own, others[4], active)
    lost = shown.observation[first, 1] == 1  # ... and one of them loses.
    assert (shown.reward == -1) == (shown.done and lost) == lost


def test_the_board_says_what_is_legal_and_an_illegal_move_loses():
    _, shown = episodes("tic_tac_toe")
    np.testing.assert_array_equal(shown.legal, shown.observation.sum(axis=-1) == 0)
    assert shown.observation.sum(axis=-1).max() == 1
    environment = environments.tic_tac_toe()
    board = marked([0, 1], [2, 5])
    for cell in (0, 2):
        _, shown = environment.step(KEYS[0], board, cell, jnp.ones(8, bool))
        assert shown.done and shown.reward == -1


def test_the_opponent_takes_any_empty_cell():
    environment = environments.tic_tac_toe()
    keys = jax.random.split(jax.random.key(2), 20000)
    step = jax.vmap(environment.step, (0, None, None, None))
    _, shown = step(keys, marked([0], [8]), 4, jnp.ones(8, bool))
    taken = shown.observation[:, :, 1].mean(axis=0)
    expected = np.array([0, 1, 1, 1, 0, 1, 1, 1, 6]) / 6
    assert (abs(taken - expected) <= 4 * (5 / 36 / 20000) ** 0.5).all()


def test_the_parts_of_the_rules_are_all_of_them_and_stay():
    parts = environments.split_rules()
    assert [part.shape for part in parts] == [(176, 8), (24, 8), (56, 8)]
    whole = np.concatenate(parts)
    assert len(np.unique(whole, axis=0)) == 256
    drawn = jax.vmap(lines_game(parts[1]).sample)(jax.random.split(KEYS[0], 500))
    assert set(map(bytes, np.asarray(drawn))) == set(map(bytes, parts[1]))
    test = [int(rule @ (1 << np.arange(8))) for rule in parts[2]]
    assert test[:4] == [129, 0, 4, 32]  # Recorded: held-out rules may not change.


def test_half_of_the_tasks_are_won_by_losing_and_are_the_same_game_otherwise():
    game, mixed = build("tic_tac_toe"), build("misere")
    signs, _ = jax.vmap(mixed.sample)(jax.random.split(KEYS[0], 4000))
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 4 / 4000**0.5
    lines = jnp.ones(8, bool)
    for sign in (-1.0, 1.0):  # Three in a row are worth it.
        params = jnp.float32(sign), lines
        state, shown = mixed.step(KEYS[1], marked([0, 1], [3, 4]), 2, params)
        assert shown.done and shown.reward == sign
        expected, _ = game.step(KEYS[1], marked([0, 1], [3, 4]), 2, lines)
        np.testing.assert_array_equal(state, expected)


def shortest(walls, start):
    """Steps to every cell that can be reached, by a flood."""
    steps, front = {start: 0}, collections.deque([start])
    while front:
        row, column = front.popleft()
        for cell in (
            (row + 1, column),
            (row - 1, column),
            (row, column + 1),
            (row, column - 1),
        ):
            inside = 0 <= cell[0] < 7 and 0 <= cell[1] < 7
            if inside and not walls[cell] and cell not in steps:
                steps[cell] = steps[row, column] + 1
                front.append(cell)
    return steps


def test_every_maze_can_be_solved_in_time_and_its_optimum_is_a_shortest_way():
    mazes = episodes("key_door")[0]
    optima = jax.jit(jax.vmap(exact.key_door_optimum))(mazes)
    for index in range(64):
        walls, key, door = (np.asarray(x[index]) for x in mazes)
        key, door = tuple(key), tuple(door)
        assert not walls[0, 0] and len({(0, 0), key, door}) == 3
        from_start = shortest(walls, (0, 0))
        assert len(from_start) == (~walls).sum() and key in from_start
        steps = from_start[key] + shortest(walls, key)[door]
        assert steps <= 34
        np.testing.assert_allclose(optima[index], 1 - 0.5 * steps / 40, rtol=1e-6)


def test_one_who_walks_a_shortest_way_earns_the_optimum():
    environment = environments.key_door()
    reset, step = jax.jit(environment.reset), jax.jit(environment.step)
    for index in range(3):
        maze = jax.tree.map(lambda x, i=index: x[i], episodes("key_door")[0])
        walls, (key, door) = np.asarray(maze.walls), map(tuple, np.asarray(maze[1:]))
        state, shown = reset(KEYS[0], maze)
        while not shown.done:
            steps = shortest(walls, door if state[1] else key)
            row, column = np.asarray(state[0]).tolist()
            around = ((row - 1, column), (row + 1, column), (row, column - 1))
            around += ((row, column + 1),)
            action = min(range(4), key=lambda a, s=steps: s.get(around[a], 99))
            state, shown = step(KEYS[0], state, action, maze)
        np.testing.assert_allclose(shown.reward, exact.key_door_optimum(maze))


def test_the_view_is_what_lies_around_and_walls_stop():
    environment = environments.key_door()
    walls = jnp.zeros((7, 7), bool).at[1, 1].set(True).at[2, 0].set(True)
    maze = environments.Maze(walls, jnp.array([0, 1]), jnp.array([1, 0]))
    state, shown = environment.reset(KEYS[0], maze)
    around = np.pad(np.asarray(walls), 2, constant_values=True)[:5, :5]
    seen = np.asarray(shown.observation)
    np.testing.assert_array_equal(seen[:25].reshape(5, 5), around)
    np.testing.assert_array_equal(np.flatnonzero(seen[25:]), [13, 25 + 17])
    visits = [([3], (0, 1), True), ([1], (0, 1), True), ([2], (0, 0), True)]
    for (action,), place, holds in visits:  # Right to the key; down to a wall; back.
        state, shown = environment.step(KEYS[0], state, action, maze)
        assert (tuple(state[0].tolist()), bool(state[1])) == (place, holds)
    seen = np.asarray(shown.observation)
    np.testing.assert_array_equal(np.flatnonzero(seen[25:]), [25 + 17, 50])
    _, shown = environment.step(KEYS[0], state, 1, maze)
    assert shown.done and abs(shown.reward - (1 - 0.5 * 4 / 40)) < 1e-6


@pytest.mark.parametrize(
    "wrong, named",
    [
        (lambda: environments.bernoulli_bandit(0), "arms must be at least 1: got 0"),
        (lambda: environments.gaussian_bandit(2, -1.0), "std must be at least 0"),
        (lambda: environments.tabular_mdp(states=0), "at least 1: got 0, 5, 10"),
        (lambda: environments.navigation(0), "horizon must be at least 1: got 0"),
        (lambda: environments.key_door(33), "at least 34"),
        (
            lambda: lines_game(np.zeros((0, 8), bool)),
            r"at least one rule.*bool\[0, 8\]",
        ),
        (lambda: lines_game(np.zeros((2, 8), bool)), "none of the rules has a line"),
        (lambda: lines_game(np.ones((2, 8))), r"got float64\[2, 8\]"),
        (lambda: lines_game(np.ones((2, 9), bool)), r"got bool\[2, 9\]"),
    ],
)
def test_bad_input_is_one_clear_line(wrong, named):
    with pytest.raises(ValueError, match=named) as error:
        wrong()
    assert "\n" not in str(error.value)
