"""Runs that learn to play: what may be chosen, what goes together, what is reported."""

import json
from pathlib import Path

from absl import flags
import jax
import numpy as np
import pytest

from experiments import command
from experiments.meta_rl import assembling, choosing, door, measuring
from experiments.meta_rl.flags import FLAGS
from experiments.meta_rl.games import GAMES
from experiments.meta_rl.learners import LEARNERS
from experiments.running import Layout
import metajax as mj
from metajax import rl
from scripts import kept

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "experiments" / "presets" / "meta_rl").iterdir())
SMALL = ["--num_validation_tasks=3", "--num_test_tasks=4", "--num_tasks=2", "--parts=1"]
SMALL += ["--width=4", "--head_width=4", "--num_steps=2", "--eval_every_steps=2"]


@pytest.fixture
def with_flags(parse, tmp_path):
    def start(*arguments):
        argv = ["run", f"--workdir={tmp_path}", *arguments]
        parse(FLAGS, argv, command.PRESETS / "meta_rl")

    return start


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_read(preset, with_flags):
    with_flags(f"--flagfile={preset}")
    first = preset.read_text().splitlines()[0]
    assert first.startswith("# ") and choosing.now()["game"] in GAMES


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--learner=maml", "--policy=gru"], "--policy=mlp"),
        (["--num_tasks=6"], "--parts must divide"),
        (["--policy=transformer", "--width=6"], "--heads must divide"),
        (["--tasks_per_chunk=256"], "--tasks_per_chunk must divide"),
        (["--arms=0"], "not a positive integer"),
        (["--episodes=0"], "not a positive integer"),
        (["--discount=1.5"], "from 0 to 1"),
        (["--rate=0"], "positive"),
        (["--inner_rate=0.5"], "--inner_rate is for --learner=maml, fomaml"),
        (["--game=navigation", "--arms=3"], "--arms is for --game=bandit"),
        (["--outer_loss=a2c", "--clip=0.1"], "--clip is for --outer_loss=ppo"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message, with_flags):
    with pytest.raises(flags.Error, match=message):
        with_flags(*arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--game=key_door", "--policy=per_part"], "games that consist of like parts"),
        (["--game=tabular_mdp", "--learner=dpt"], "taught best actions"),
        (["--game=navigation", "--learner=dpt"], "taught best actions"),
        (
            ["--game=gaussian_bandit", "--learner=distillation"],
            "its players are random",
        ),
    ],
)
def test_what_a_game_lacks_is_said_in_a_line(arguments, message, with_flags, capsys):
    with_flags(*arguments)
    assert door.run() == 2
    assert message in capsys.readouterr().err


CASES = {
    "rl2": ["--learner=rl2"],
    "a2c": ["--learner=rl2", "--outer_loss=a2c", "--policy=per_part"],
    "maml": ["--learner=maml", "--game=navigation", "--patience=3"],
    "fomaml": ["--learner=fomaml", "--game=navigation", "--patience=3"],
    "dpt": ["--learner=dpt"],
    "distillation": ["--learner=distillation", "--teacher=ucb1"],
}


# What of SMALL they do not read.
LESS = {
    "a2c": ("--parts",),
    "maml": ("--head_width",),
    "fomaml": ("--head_width",),
    "dpt": ("--parts",),
    "distillation": ("--parts",),
}


def test_every_learner_has_a_case():
    assert {case[0].split("=")[1] for case in CASES.values()} == set(LEARNERS)


@pytest.mark.parametrize("name", CASES)
def test_every_learner_moves_its_parameters(name, with_flags):
    reads = LESS.get(name, ())
    small = [flag for flag in SMALL if flag.split("=")[0] not in reads]
    with_flags("--episodes=3", *CASES[name], *small)
    experiment = door.experiment()
    state = experiment.init(jax.random.key(0))
    before = jax.tree.map(np.asarray, state.meta)
    after, metrics = mj.train(
        experiment.step(Layout()),
        state,
        experiment.tasks,
        num_tasks=2,
        num_steps=1,
    )
    assert int(after.step) == 1 and np.isfinite(metrics["loss"]).all()
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before, after.meta)
    assert max(jax.tree.leaves(moved)) > 0


def test_a_run_reports_returns_totals_players_and_bounds(with_flags, tmp_path, capsys):
    with_flags("--episodes=3", "--arms=2", *SMALL)
    assert door.run() == 0
    text = capsys.readouterr().out
    for words in ("gittins, total after 3 pulls", "Bayes optimum, total", "regret"):
        assert words in text
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["axis"] == "pulls"
    assert [row["pulls"] for row in result["rows"]] == [1, 2, 3]
    values = np.load(tmp_path / "result.npz")
    total = values["return_1"] + values["return_2"] + values["return_3"]
    np.testing.assert_allclose(values["total_3"], total)
    for picture in ("returns.png", "trials.png"):
        assert (tmp_path / picture).stat().st_size > 5_000

    player = rl.load(tmp_path)
    with np.load(tmp_path / "best.npz") as kept_params:
        for path, leaf in zip(
            mj.trees.leaf_paths(player.params), jax.tree.leaves(player.params)
        ):
            np.testing.assert_array_equal(leaf, kept_params[path])
    play = jax.jit(rl.trial(player.environment, player.policy, player.num_episodes))
    means = jax.numpy.array([0.3, 0.7])
    assert play(jax.random.key(0), player.params, means).targets.reward.shape == (3,)
    trial, pulls = player.trial(), []
    for _ in range(3):
        pulls.append(trial.begin(np.zeros(1)))
        trial.end(np.zeros(1), reward=1.0)
    assert set(pulls) <= {0, 1}


def test_of_parameters_that_adapt_no_player_is_left(with_flags):
    with_flags("--episodes=3", *CASES["maml"])
    assert not door.experiment().card(None)


def test_rewards_that_are_not_finite_are_refused():
    game = GAMES["bandit"].make(arms=2)
    bad = game.environment._replace(
        step=lambda *args: jax.tree.map(
            lambda x: x * np.nan if x.dtype == np.float32 else x,
            game.environment.step(*args),
        )
    )
    with pytest.raises(ValueError, match="rewards that are not finite"):
        assembling.check_rewards(game._replace(environment=bad))


KEPT = {
    (path.stem, test): result
    for path in sorted((ROOT / "experiments" / "results" / "meta_rl").glob("*.json"))
    for found in [kept.read(path)]
    for test, result in {"result": found.result, **found.tests}.items()
}


@pytest.mark.parametrize("name, test", KEPT)
def test_no_recorded_score_is_above_what_is_exact(name, test):
    """But for sampling error, of which 95% intervals tell: twice as far is none."""
    result = KEPT[name, test]
    axis = result["axis"].replace(" ", "_")
    for row in result["rows"]:
        if "regret" in row:
            assert row["regret"]["mean"] > -2 * row["regret"]["interval"], row[axis]
    last = result["rows"][-1]
    if name.startswith("bandit_10x"):
        arms = int(name.removeprefix("bandit_10x").split("_")[0].split("-")[0])
        bound = rl.exact.bandit_optimum(arms, 10)
        assert last["total"]["mean"] < bound + 2 * last["total"]["interval"]
    if name.startswith("navigation"):
        bound = np.mean(
            jax.vmap(rl.exact.navigation_optimum)(rl.environments.original_goals())
        )
        assert all(row["return"]["mean"] < bound for row in result["rows"])


def test_who_samples_from_the_posterior_does_not_diverge_from_it():
    game = GAMES["bandit"].make(arms=3)
    wander = rl.trial(game.environment, rl.exact.random_policy(game.environment), 6)
    task = game.train(jax.random.key(0))

    def kl(policy):
        objective = measuring.divergence(game, policy, wander, (1, 3, 6))
        return jax.jit(objective)(jax.random.key(1), (), task)[1]["kl"]

    np.testing.assert_allclose(kl(rl.exact.thompson(3)), 0, atol=1e-5)
    assert (kl(rl.exact.random_policy(game.environment))[1:] > 0.01).all()
