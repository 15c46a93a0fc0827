"""Exact values are what independent oracles find, and what play comes to on average."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from metajax.rl import acting, environments, exact
from metajax.rl.environments.tic_tac_toe import LINES
from metajax.rl.exact.bandits import index_place
from metajax.rl.exact.belief_play import chance_active
from metajax.rl.exact.tic_tac_toe import solve


def play(environment, policy, num_episodes, num_tasks, seed=0):
    """Returns of a policy without params, `[tasks, episodes]`."""
    collect = acting.trial(environment, policy, num_episodes)

    def one(key):
        batch = collect(key, (), environment.sample(jax.random.fold_in(key, -1)))
        rewards = jnp.where(batch.mask, batch.targets.reward, 0)
        return jnp.zeros(num_episodes).at[batch.targets.episode].add(rewards)

    keys = jax.random.split(jax.random.key(seed), num_tasks)
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


def first_seen(environment, policy):
    key = jax.random.key(0)
    batch = acting.trial(environment, policy, 1)(key, (), environment.sample(key))
    return jax.tree.map(lambda x: x[0], batch.inputs)


def assert_mean(values, expected):
    """Whether the mean is within 4 standard errors."""
    error = values.std(axis=0) / len(values) ** 0.5
    assert (abs(values.mean(axis=0) - expected) < 4 * error).all(), values.mean(axis=0)


def bandit_value(combine, arms, pulls):
    """By all that may happen; `combine(values of the arms, counts, left) -> value`."""

    def value(counts, left):
        if left == 0:
            return 0.0
        values = []
        for arm, (successes, failures) in enumerate(counts):
            p = (successes + 1) / (successes + failures + 2)
            won, lost = (
                value((*counts[:arm], after, *counts[arm + 1 :]), left - 1)
                for after in ((successes + 1, failures), (successes, failures + 1))
            )
            values.append(p * (1 + won) + (1 - p) * lost)
        return combine(values, counts, left)

    return value(((0, 0),) * arms, pulls)


@pytest.mark.parametrize("arms, pulls", [(1, 4), (2, 5), (3, 4)])
def test_the_optimum_of_bandits_is_that_of_all_trees_of_pulls(arms, pulls):
    expected = bandit_value(lambda values, *_: max(values), arms, pulls)
    np.testing.assert_allclose(exact.bandit_optimum(arms, pulls), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "arms, pulls, expected",
    [
        (2, 10, 6.0218),
        (5, 10, 6.66),
        (10, 10, 6.714),
        (50, 10, 6.714),
        (2, 20, 12.4313),
    ],
)
def test_optima_of_bandits_are_the_known_ones(arms, pulls, expected):
    assert round(exact.bandit_optimum(arms, pulls), 4) == expected


def index_by_bisection(left, successes, failures):
    low, high = 0.0, 1.0
    for _ in range(40):
        charge = (low + high) / 2

        @functools.cache
        def gain(left, s, f, charge=charge):
            p = (s + 1) / (s + f + 2)
            if left == 1:
                return p - charge
            won, lost = gain(left - 1, s + 1, f), gain(left - 1, s, f + 1)
            return p - charge + p * max(0, won) + (1 - p) * max(0, lost)

        worth_it = gain(left, successes, failures) > 0
        low, high = (charge, high) if worth_it else (low, charge)
    return low


def test_gittins_indices_are_where_a_charge_is_just_worth_it():
    indices = exact.gittins_indices(30)
    random = np.random.default_rng(0)
    for _ in range(40):
        done = random.integers(30)
        tries = random.integers(done + 1)
        successes = random.integers(tries + 1)
        found = indices[index_place(done, tries, successes)]
        expected = index_by_bisection(30 - done, successes, tries - successes)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_gittins_indices_rise_with_successes_and_with_what_is_left():
    pulls = 30
    done, tries, successes = np.array(
        [x for x in itertools.product(range(pulls), repeat=3) if x[2] <= x[1] <= x[0]]
    ).T
    indices = exact.gittins_indices(pulls)
    assert sorted(index_place(done, tries, successes)) == list(range(len(indices)))

    def index(more_done=0, more_tries=0, more_successes=0, keep=slice(None)):
        moved = (done + more_done, tries + more_tries, successes + more_successes)
        return indices[index_place(*(x[keep] for x in moved))]

    mean = (successes + 1) / (tries + 2)
    assert (index() >= mean - 1e-6).all()
    last = done == pulls - 1
    np.testing.assert_allclose(index(keep=last), mean[last], atol=1e-4)
    assert (index(0, 0, 1, successes < tries) > index(keep=successes < tries)).all()
    room = tries < done
    assert (index(0, 1, 0, room) < index(keep=room)).all()  # One more failure.
    assert (index(1, 0, 0, ~last) <= index(keep=~last) + 1e-3).all()


def evenly(scores):
    best = np.isclose(scores, np.max(scores), atol=1e-6)
    return best / best.sum()


def _by_mean(counts, left):
    return evenly([(s + 1) / (s + f + 2) for s, f in counts])


def _by_index(counts, left):
    return evenly([index_by_bisection(left, s, f) for s, f in counts])


POLICIES = {
    "random": (
        lambda: exact.random_policy(environments.bernoulli_bandit(2)),
        lambda counts, left: [0.5, 0.5],
    ),
    "greedy": (lambda: exact.greedy(2), _by_mean),
    "thompson": (
        lambda: exact.thompson(2),
        lambda counts, left: exact.best_arm_posterior(*jnp.array(counts).T),
    ),
    "gittins": (lambda: exact.gittins(2, pulls=9), _by_index),  # Fewer may be left.
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_decide_as_their_formulas_do(name):
    """Along all that can happen in four pulls of two arms."""
    build, formula = POLICIES[name]
    policy = build()
    step = jax.jit(policy.step)
    blank = first_seen(environments.bernoulli_bandit(2), policy)

    def visit(memory, counts, action, reward, left):
        seen = blank._replace(
            action=jnp.int32(action),
            reward=jnp.float32(reward),
            begins=jnp.array(left == 4),
            left=jnp.int32(left),
        )
        memory, decision = step((), memory, seen)
        chances = jax.nn.softmax(decision.actions.logits)
        np.testing.assert_allclose(chances, formula(counts, left), atol=1e-6)
        if left > 1:
            for arm, paid in itertools.product((0, 1), (0, 1)):
                s, f = counts[arm]
                after = [*counts]
                after[arm] = (s + paid, f + 1 - paid)
                visit(memory, after, arm, paid, left - 1)

    visit(policy.start(()), [(0, 0), (0, 0)], 0, 0, 4)
    assert step._cache_size() == 1


def test_upper_bounds_are_the_formula_of_any_counts():
    policy, random = exact.ucb1(5, scale=0.7), np.random.default_rng(0)
    successes, failures = random.integers(0, 20, (2, 500, 5))
    blank = first_seen(environments.bernoulli_bandit(5), policy)
    counts = exact.Counts(jnp.float32(successes), jnp.float32(failures))
    step = jax.vmap(
        lambda counts: policy.step((), counts, blank)
    )  # Before a first pull.
    chosen = jax.nn.softmax(step(counts)[1].actions.logits)
    tries = successes + failures
    with np.errstate(invalid="ignore", divide="ignore"):
        bonus = 0.7 * np.sqrt(2 * np.log(tries.sum(axis=1, keepdims=True)) / tries)
        bounds = np.where(tries > 0, successes / tries + bonus, np.inf)
    best = bounds == bounds.max(axis=1, keepdims=True)
    assert 0 < best[:, 0].mean() < 1 and (best.sum(axis=1) > 1).any()  # Untried: equal.
    np.testing.assert_allclose(
        chosen, best / best.sum(axis=1, keepdims=True), atol=1e-6
    )


def test_the_gittins_policy_is_all_but_the_best_and_earns_what_it_should():
    indices = exact.gittins_indices(7)

    def by_index(values, counts, left):
        own = [indices[index_place(7 - left, s + f, s)] for s, f in counts]
        return evenly(own) @ values

    value, optimum = bandit_value(by_index, 2, 7), exact.bandit_optimum(2, 7)
    assert optimum - 0.005 < value <= optimum + 1e-9
    assert value > bandit_value(
        lambda x, counts, left: _by_mean(counts, left) @ x, 2, 7
    )
    environment = environments.bernoulli_bandit(2)
    returns = play(environment, exact.gittins(2, 7), 7, 20000).sum(axis=1)
    assert_mean(returns, value)


COUNTS = [
    ([0, 0, 0], [0, 0, 0]),
    ([1, 0, 3], [0, 1, 2]),
    ([40, 30, 0], [20, 12, 1]),
    ([300, 0, 120], [100, 7, 45]),
]


@pytest.mark.parametrize("successes, failures", COUNTS)
def test_the_chance_to_be_the_best_is_that_among_draws(successes, failures):
    chances = exact.best_arm_posterior(jnp.array(successes), jnp.array(failures))
    np.testing.assert_allclose(chances.sum(), 1, rtol=1e-6)
    draws = np.random.default_rng(0).beta(
        np.array(successes) + 1, np.array(failures) + 1, (200_000, 3)
    )
    best = (draws == draws.max(axis=1, keepdims=True)).astype(float)
    error = np.sqrt(best.var(axis=0) / len(best))
    assert (abs(best.mean(axis=0) - chances) <= 4 * error + 1e-6).all()


@pytest.mark.parametrize("first, second", [((300, 100), (72, 27)), ((5, 0), (1, 1))])
def test_the_chance_to_be_the_better_of_two_is_the_closed_form(first, second):
    """A sum over the values of the first Beta's integer parameter."""
    (a, b), (c, d) = ((s + 1, f + 1) for s, f in (first, second))
    i, log = np.arange(a), scipy.special.betaln
    terms = log(c + i, b + d) - np.log(b + i) - log(1 + i, b) - log(c, d)
    chance = np.exp(terms).sum()
    found = exact.best_arm_posterior(*jnp.array([first, second]).T)
    np.testing.assert_allclose(found[0], chance, atol=3e-4)


def mdp_return(tables, actions):
    """Of chances to take actions, `[horizon, states, actions]`, by the way forward."""
    means, transitions = (np.asarray(x, np.float64) for x in tables)
    states, total = np.eye(len(means))[0], 0.0
    for chances in actions:
        both = states[:, None] * chances
        total += (both * means).sum()
        states = np.einsum("sa,san->n", both, transitions)
    return total


def test_returns_of_known_tables_are_those_of_the_best_of_all_plans():
    tables = environments.tabular_mdp(2, 2, 3).sample(jax.random.key(3))
    plans = itertools.product(np.eye(2), repeat=6)
    best = max(mdp_return(tables, np.reshape(plan, (3, 2, 2))) for plan in plans)
    found = exact.mdp_optimum(tables, 3)
    np.testing.assert_allclose(found.optimum, best, rtol=1e-5)
    random = mdp_return(tables, np.full((3, 2, 2), 0.5))
    np.testing.assert_allclose(found.random, random, rtol=1e-5)


def test_returns_of_tables_are_the_known_ones_and_what_play_comes_to():
    environment = environments.tabular_mdp()
    keys = jax.random.split(jax.random.key(0), 4000)
    tables = jax.jit(jax.vmap(environment.sample))(keys)
    returns = jax.jit(jax.vmap(lambda x: exact.mdp_optimum(x, 10)))(tables)
    assert_mean(np.stack(returns, axis=1), [21.84, 9.99])
    played = play(environment, exact.random_policy(environment), 1, 4000)
    assert_mean(played[:, 0], 10)  # The mean over tasks is 1 a step.


def lines_value(active, pick):
    """Value of a game under known lines, by all games there are."""
    lines = [set(line) for line, is_active in zip(LINES.tolist(), active) if is_active]

    @functools.cache
    def value(own, others):
        empty = [c for c in range(9) if c not in own | others]
        values = []
        for cell in empty:
            mine = own | {cell}
            if any(line <= mine for line in lines):
                values.append(1.0)
                continue
            replies = [others | {c} for c in empty if c != cell]
            lost = [any(line <= theirs for line in lines) for theirs in replies]
            after = [-1.0 if over else value(mine, r) for over, r in zip(lost, replies)]
            values.append(sum(after) / len(after) if after else 0.0)
        return pick(values)

    return value(frozenset(), frozenset())


@pytest.mark.parametrize("rule", [0, 3, 0b11010010, 255])
def test_values_under_a_rule_are_those_of_all_games(rule):
    returns, active = exact.tic_tac_toe_returns(), environments.all_rules()[rule]
    np.testing.assert_allclose(returns.rule_known[rule], lines_value(active, max))
    np.testing.assert_allclose(returns.random[rule], lines_value(active, np.mean))


def test_values_of_hidden_lines_are_the_known_ones():
    returns = exact.tic_tac_toe_returns()
    means = [values.mean() for values in returns]
    np.testing.assert_allclose(means, [0.2171, 0.5736, 0.65625, 0.9431], atol=5e-5)
    standard = [values[255] for values in (returns.random, returns.standard)]
    np.testing.assert_allclose(standard, [0.2968, 0.9948], atol=5e-5)
    sizes = environments.all_rules().sum(axis=1)
    by_size = [returns.rule_known[sizes == n].mean() for n in range(9)]
    expected = [0, 0.625, 0.868, 0.937, 0.970, 0.984, 0.991, 0.993, 0.995]
    np.testing.assert_allclose(by_size, expected, atol=6e-4)
    for values in returns:
        assert (values <= returns.rule_known + 1e-12).all()


def test_a_belief_is_worth_what_its_rules_are():
    """Nothing known: the zero-shot value; all known: that of the rule."""
    rules = np.array([5, 77, 255])
    known = [sum((1 + (r >> line & 1)) * 3**line for line in range(8)) for r in rules]
    chances = chance_active(np.array([0, *known]))
    values = solve(chances, lambda moves, turn: moves.max(axis=1))[0]
    returns = exact.tic_tac_toe_returns()
    np.testing.assert_allclose(values[0], returns.zero_shot.mean(), rtol=1e-5)
    np.testing.assert_allclose(values[1:], returns.rule_known[rules], rtol=1e-5)


def test_random_play_of_hidden_lines_comes_to_its_value():
    environment = environments.tic_tac_toe()
    played = play(environment, exact.random_policy(environment), 2, 5000)
    assert_mean(played, exact.tic_tac_toe_returns().random.mean())


def test_belief_play_begins_at_the_zero_shot_value_and_rises_towards_the_known_rule():
    environment, returns = environments.tic_tac_toe(), exact.tic_tac_toe_returns()
    played = play(environment, exact.belief_play(), 5, 4000)
    assert_mean(played[:, 0], returns.zero_shot.mean())
    gains = played[:, 1:] - played[:, :1]
    assert (gains.mean(axis=0) > 4 * gains.std(axis=0) / len(gains) ** 0.5).all()
    error = played[:, -1].std() / len(played) ** 0.5
    assert 0.85 < played[:, -1].mean() < returns.rule_known.mean() + 4 * error


UNKNOWN, INACTIVE, ACTIVE = range(3)


@pytest.mark.parametrize(
    "own, others, reward, learnt",
    [
        ([0, 1, 2], [3, 4, 6], 1, {0: ACTIVE}),
        ([0, 1, 2], [3, 4, 8], 0, {0: INACTIVE}),
        ([0, 4, 8], [1, 2, 5], 0, {6: INACTIVE}),
        ([0, 1, 8], [2, 4, 6], -1, {7: ACTIVE}),
        ([0, 1, 2, 6], [3, 4, 5], -1, {0: INACTIVE, 1: ACTIVE}),
        ([0, 1, 2, 3, 6], [4, 5, 7, 8], 1, {}),  # One of two, and nobody knows which.
        ([0, 1], [4, 8], 0, {}),
    ],
)
def test_what_belief_play_learns_of_a_board(own, others, reward, learnt):
    environment, policy = environments.tic_tac_toe(), exact.belief_play()
    board = np.zeros((9, 2), np.float32)
    board[own, 0] = board[others, 1] = 1
    seen = first_seen(environment, policy)._replace(
        led_to=jnp.asarray(board), reward=jnp.float32(reward), begins=jnp.array(False)
    )
    belief, _ = policy.step((), policy.start(()), seen)
    expected = [learnt.get(line, UNKNOWN) for line in range(8)]
    np.testing.assert_array_equal(belief, expected)


@pytest.mark.parametrize(
    "build, named",
    [
        (lambda: exact.bandit_optimum(0, 3), "arms must be at least 1: got 0"),
        (lambda: exact.bandit_optimum(2, 0), "pulls must be at least 1: got 0"),
        (lambda: exact.gittins(5, 1001), "pulls must be at most 1000: got 1001"),
        (lambda: exact.thompson(0), "arms must be at least 1: got 0"),
        (lambda: exact.mdp_optimum(None, 0), "horizon must be at least 1: got 0"),
    ],
)
def test_bad_input_is_one_clear_line(build, named):
    with pytest.raises(ValueError, match=named) as error:
        build()
    assert "\n" not in str(error.value)
