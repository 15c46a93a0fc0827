"""The laws that every policy must satisfy. A new one adds a line to POLICIES."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import rl
from metajax.rl import environments, exact, policies, views

ARMS, EPISODES = 3, 5
BANDIT = environments.bernoulli_bandit(ARMS)
BOARD = environments.tic_tac_toe()
TABLE = environments.tabular_mdp(3, 2, 2)
PLANE = environments.navigation(4)


def heads(outputs):
    return mj.models.mlp([5], outputs)


def remembering(memory, environment):
    view = policies.everything(environment.actions)
    return policies.remembering(memory, heads, environment.actions, view)


GRU = mj.models.gru(4)
ATTENTIVE = mj.models.attentive(4, layers=1, heads=2, length=10)
CONVOLVING = mj.models.convolving(4, length=10)
POLICIES = {
    "gru": (BANDIT, remembering(GRU, BANDIT)),
    "gru on a board": (BOARD, remembering(GRU, BOARD)),
    "gru in the plane": (PLANE, remembering(GRU, PLANE)),
    "transformer": (TABLE, remembering(ATTENTIVE, TABLE)),
    "snail": (TABLE, remembering(CONVOLVING, TABLE)),
    "arms": (BANDIT, policies.per_part(GRU, heads, ARMS, views.each_arm(ARMS))),
    "lines": (
        BOARD,
        policies.per_part(GRU, heads, 8, views.each_line, views.through_each_cell),
    ),
    "pairs": (
        TABLE,
        policies.per_part(
            GRU, heads, 6, views.each_pair(2), views.pairs_of_the_state(2)
        ),
    ),
    "mlp": (PLANE, policies.reactive(heads, PLANE.actions)),
    "mlp on a board": (BOARD, policies.reactive(heads, BOARD.actions)),
    "random": (BOARD, exact.random_policy(BOARD)),
    "thompson": (BANDIT, exact.thompson(ARMS)),
}


@partial(jax.jit, static_argnums=(0, 1))
def start(environment, policy):
    """Params, a task, and keys to act by."""
    keys = jax.random.split(jax.random.key(0), 3)
    task = environment.sample(keys[0])
    shown = rl.examples(environment)(keys[1]).support.inputs
    return policy.init(keys[1], shown), task, keys[2]


@partial(jax.jit, static_argnums=0)
def said(policy, params, seen):
    return policy.apply(params, seen)


@cache
def played(name):
    """Params, and what was recorded in a trial and in episodes side by side."""
    environment, policy = POLICIES[name]
    params, task, key = start(environment, policy)
    acts = (
        rl.trial(environment, policy, EPISODES),
        rl.rollouts(environment, policy, 2),
    )
    return params, jax.jit(lambda *a: [act(*a) for act in acts])(key, params, task)


@pytest.mark.parametrize("name", POLICIES)
def test_what_was_recorded_is_what_it_says_along_the_whole_stream(name):
    """`step`, as it acted, and `apply` agree, also where a trial begins anew."""
    policy = POLICIES[name][1]
    params, batches = played(name)
    for batch in batches:
        outputs = said(policy, params, batch.inputs)
        log_probs = outputs.actions.log_prob(batch.targets.action)
        real = np.asarray(batch.mask)
        recorded = batch.targets
        np.testing.assert_allclose(
            log_probs[real], recorded.log_prob[real], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            outputs.value[real], recorded.value[real], rtol=1e-4, atol=1e-5
        )
        legal = batch.inputs.legal
        if legal is not None:
            taken = np.asarray(batch.targets.action)
            assert np.asarray(legal)[np.arange(len(taken)), taken].all()


@pytest.mark.parametrize("name", ["gru", "transformer", "snail", "arms", "pairs"])
def test_a_decision_sees_nothing_later(name):
    policy = POLICIES[name][1]
    params, (trial, _) = played(name)
    rewards = trial.inputs.reward
    later = trial.inputs._replace(reward=rewards + (jnp.arange(len(rewards)) > 2))
    before, after = (
        said(policy, params, seen).actions.logits for seen in (trial.inputs, later)
    )
    np.testing.assert_allclose(before[:3], after[:3], atol=1e-6)
    assert np.abs(before[3:] - after[3:]).max() > 1e-4


def test_a_policy_of_parts_treats_them_alike():
    policy = POLICIES["arms"][1]
    params, (batch, _) = played("arms")
    order = jnp.array([2, 0, 1])
    place = jnp.argsort(order)  # Where each arm has gone.
    swapped = batch.inputs._replace(action=place[batch.inputs.action])
    logits = said(policy, params, batch.inputs).actions.logits
    np.testing.assert_allclose(
        said(policy, params, swapped).actions.logits, logits[:, order], atol=1e-6
    )


def test_its_params_serve_other_numbers_of_parts():
    params, *_ = start(BANDIT, POLICIES["arms"][1])
    more = environments.bernoulli_bandit(7)
    policy = policies.per_part(GRU, heads, 7, views.each_arm(7))
    trial = jax.jit(rl.trial(more, policy, 9))
    batch = trial(jax.random.key(0), params, more.sample(jax.random.key(1)))
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(lambda: start(more, policy)[0]))
    assert shapes == jax.tree.map(jnp.shape, params)
    assert batch.targets.action.shape == (9,)
    assert np.isfinite(batch.targets.log_prob).all()


def test_a_board_turned_around_is_played_alike():
    """A turn by 90 degrees moves cells, and lines with them."""
    policy = POLICIES["lines"][1]
    params, (batch, _) = played("lines")
    turn = np.rot90(np.arange(9).reshape(3, 3)).ravel()

    def turned(board):
        return board[:, turn]

    seen = batch.inputs
    around = seen._replace(
        observation=turned(seen.observation),
        led_to=turned(seen.led_to),
        legal=turned(seen.legal),
    )
    logits = said(policy, params, seen).actions.logits
    found = said(policy, params, around).actions.logits
    np.testing.assert_allclose(found, turned(logits), rtol=1e-5, atol=1e-5)
