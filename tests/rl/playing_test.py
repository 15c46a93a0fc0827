"""Playing step by step: the same as in one compiled loop, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import rl, using
from metajax.rl import environments, playing

GAMES = {
    "tic_tac_toe": environments.tic_tac_toe(),
    "tabular_mdp": environments.tabular_mdp(states=3, actions=2, horizon=4),
    "navigation": environments.navigation(horizon=5),
}


def policy_of(game):
    def model(outputs):
        return mj.models.mlp([], outputs)

    if isinstance(game.actions, rl.Discrete):
        view = rl.policies.everything(game.actions)
        return rl.policies.remembering(mj.models.gru(4), model, game.actions, view)
    return rl.policies.reactive(model, game.actions)


def player_of(game, num_episodes=3):
    policy = policy_of(game)
    seen = rl.examples(game)(jax.random.key(1)).support.inputs
    return rl.Player(game, policy, policy.init(jax.random.key(0), seen), num_episodes)


def kept(tree, place):
    return jax.tree.map(lambda leaf: np.asarray(leaf[place]), tree)


@pytest.mark.parametrize("name", GAMES)
def test_a_trial_sees_what_a_compiled_one_sees(name, monkeypatch):
    game = GAMES[name]
    player = player_of(game)
    play = jax.jit(rl.trial(game, player.policy, 3))
    batch = play(jax.random.key(0), player.params, game.sample(jax.random.key(2)))
    stream, done = batch.inputs, batch.targets
    number = int(batch.mask.sum())
    assert len(set(np.asarray(done.episode[:number]))) == 3
    shown, decide = [], playing._decide

    def recorded(policy, key, params, memory, seen):
        memory, action = decide(policy, key, params, memory, seen)
        assert action.shape == done.action.shape[1:]
        place = len(shown)
        shown.append((memory, seen))
        return memory, done.action[place]

    monkeypatch.setattr(playing, "_decide", recorded)
    trial = player.trial()
    for place in range(number):
        now = kept(stream, place)
        reward = float(done.reward[place - 1]) if place else 0.0
        if now.first:
            if place:
                trial.end(now.led_to, reward)
            action = trial.begin(now.observation, legal=now.legal)
        else:
            action = trial.step(now.observation, reward, legal=now.legal)
        np.testing.assert_array_equal(action, done.action[place])
        assert isinstance(action, int) == isinstance(game.actions, rl.Discrete)
    for place, (_, seen) in enumerate(shown):
        for x, y in zip(
            jax.tree.leaves(seen), jax.tree.leaves(kept(stream, place)), strict=True
        ):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    memory = player.policy.start(player.params)
    for after, seen in shown:
        memory, _ = player.policy.step(player.params, memory, seen)
        for x, y in zip(jax.tree.leaves(memory), jax.tree.leaves(after)):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_only_what_is_legal_is_done_and_a_seed_says_all():
    player = player_of(GAMES["tic_tac_toe"])
    legal = np.arange(9) == 4
    board = np.zeros((9, 2))
    assert player.trial().begin(board, legal=legal) == 4
    free = np.ones(9, bool)
    drawn = [player.trial(seed=s).begin(board, legal=free) for s in (*range(20), 0)]
    assert len(set(drawn)) > 3 and drawn[0] == drawn[-1]


BOARD, FREE = np.zeros((9, 2)), np.ones(9, bool)
WRONG = {
    "no episode": (
        lambda trial: trial.step(BOARD, 0.0, legal=FREE),
        "call begin first",
    ),
    "no end": (
        lambda trial: [trial.begin(BOARD, legal=FREE) for _ in range(2)],
        "call end before begin",
    ),
    "shape": (
        lambda trial: trial.begin(BOARD.T, legal=FREE),
        r"observation float32\[9,2\] and legal bool\[9\]: got float64\[2,9\]",
    ),
    "no legal": (lambda trial: trial.begin(BOARD), r"legal bool\[9\].* and none"),
    "reward": (
        lambda trial: [
            trial.begin(BOARD, legal=FREE),
            trial.step(BOARD, float("nan"), legal=FREE),
        ],
        "must be a finite number: got nan",
    ),
    "no reward": (
        lambda trial: [trial.begin(BOARD, legal=FREE), trial.end(BOARD, None)],
        "must be a finite number: got None",
    ),
    "not finite": (
        lambda trial: trial.begin(BOARD + np.inf, legal=FREE),
        "must be finite and as in the game",
    ),
    "nothing legal": (lambda trial: trial.begin(BOARD, legal=~FREE), "end the episode"),
    "too long": (
        lambda trial: [
            trial.begin(BOARD, legal=FREE),
            *[trial.step(BOARD, 0.0, legal=FREE) for _ in range(5)],
        ],
        "at most 5 actions, as in training: end it",
    ),
    "too many": (
        lambda trial: [
            trial.begin(BOARD, legal=FREE),
            trial.end(BOARD, -1.0),
            trial.begin(BOARD, legal=FREE),
        ],
        "has had its 1 episodes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name):
    play, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as error:
        play(player_of(GAMES["tic_tac_toe"], num_episodes=1).trial())
    assert "\n" not in str(error.value)


def test_players_and_other_runs_are_told_apart(monkeypatch):
    player = player_of(GAMES["tabular_mdp"])
    monkeypatch.setattr(using, "read_run", lambda workdir: player)
    assert rl.load("runs/mine") is player
    with pytest.raises(ValueError, match="runs/mine holds a player of games"):
        mj.load("runs/mine")
    monkeypatch.setattr(using, "read_run", lambda workdir: jnp.zeros(()))
    with pytest.raises(ValueError, match="runs/mine holds no player of games"):
        rl.load("runs/mine")
