"""The README says what is so: its code runs, its tables are complete and recorded."""

from functools import partial
from pathlib import Path
import re
import subprocess
import sys

import jax
import numpy as np
import optax
from PIL import Image
import pytest

from experiments.meta_rl.games import GAMES as GAME_PARTS
from experiments.meta_rl.learners import LEARNERS
from experiments.meta_rl.policies import POLICIES
import metajax as mj

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GAMES = (ROOT / "experiments" / "meta_rl" / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_script_runs(capsys, monkeypatch):
    short = BLOCKS[0]
    monkeypatch.setattr(mj.data, "glyphs", partial(mj.data.glyphs, num_classes=20))
    for long, few in (
        ("num_steps=200", "num_steps=2"),
        ("num_tasks=600", "num_tasks=3"),
    ):
        assert long in short
        short = short.replace(long, few)
    exec(short, {})
    mean, interval = eval(capsys.readouterr().out)
    assert 0 <= mean <= 1 and interval >= 0


def test_the_script_that_learns_to_play_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", GAMES, re.DOTALL)
    for long, few in (
        ("num_steps=20)", "num_steps=1)"),
        ("num_tasks=256", "num_tasks=4"),
        ("num_tasks=1000", "num_tasks=3"),
    ):
        assert long in block
        block = block.replace(long, few)
    exec(block, {})
    mean, interval = eval(capsys.readouterr().out)
    assert 0 <= mean <= 10 and interval >= 0


def test_the_page_of_games_names_all_there_is():
    for kind in (GAME_PARTS, LEARNERS, POLICIES):
        for name in kind:
            assert f"`{name}`" in GAMES, name


def test_the_learner_of_ones_own_trains_and_beats_chance():
    names = {"jax": jax, "mj": mj}
    exec(BLOCKS[1], names)
    images = np.random.default_rng(0).integers(0, 255, (6, 1, 8, 8, 1))
    noisy = images + np.random.default_rng(1).integers(-60, 60, (6, 20, 8, 8, 1))
    inputs = np.clip(noisy, 0, 255).astype(np.uint8).reshape(-1, 8, 8, 1)
    data = mj.data.from_arrays(inputs, np.repeat(np.arange(6), 20))
    sampler = mj.data.FewShot(data, ways=3, shots=2, queries=2)
    learner = names["nearest_mean"](mj.models.mlp([16], 8), ways=3)
    objective = mj.query_loss(
        learner, mj.losses.cross_entropy, accuracy=mj.losses.accuracy
    )
    optimizer = optax.adam(1e-2)
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    state = mj.init_state(jax.random.key(0), learner, optimizer, sampler)
    state, metrics = mj.train(step, state, sampler, num_tasks=8, num_steps=50)
    assert np.mean(metrics["accuracy"][-10:]) > 0.8


@pytest.mark.parametrize("normalization", ["support", "transductive"])
def test_the_learner_of_ones_own_is_a_protonet_under_padding_and_any_protocol(
    normalization,
):
    names = {"jax": jax, "mj": mj}
    exec(BLOCKS[1], names)
    images = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    labels = np.arange(6) % 2  # Of the third class there is no example.
    real = np.array([True] * 4 + [False] * 2)
    images[4:6] = np.nan
    support = mj.Batch(images[:6], labels, real)
    model = mj.models.conv4(None, width=2, normalization=normalization)
    own, protonet = names["nearest_mean"](model, 3), mj.protonet(model, 3)
    meta = jax.jit(model.init)(jax.random.key(0), images[:4])

    @partial(jax.jit, static_argnums=0)
    def outputs(learner, queries):
        adapted = learner.adapt(jax.random.key(0), meta, support)
        return learner.predict(meta, adapted, queries)

    together = outputs(own, images[6:])
    np.testing.assert_allclose(together, outputs(protonet, images[6:]), rtol=1e-5)
    assert (np.argmax(together, axis=1) < 2).all()
    if normalization == "support":
        alone = outputs(own, images[6:7])
        np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_the_head_of_ones_own_is_a_protonet():
    (block,) = (block for block in BLOCKS if "fitting_head" in block)
    names = {"mj": mj}
    exec(block, names)
    model = mj.models.mlp([4], None)
    random = np.random.default_rng(0)
    support = mj.Batch(random.normal(size=(6, 5)).astype(np.float32), np.arange(6) % 3)
    meta = model.init(jax.random.key(0), support.inputs)
    outputs = [
        learner.predict(meta, learner.adapt(None, meta, support), support.inputs)
        for learner in (names["nearest_mean"](model, 3), mj.protonet(model, 3))
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("script", ["reproduce", "side_by_side"])
def test_the_tables_of_results_are_what_was_recorded(script):
    command = [sys.executable, ROOT / "scripts" / f"{script}.py"]
    printed = subprocess.run(command, capture_output=True, text=True).stdout
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) > 2
    pages = README + GAMES
    for line in table:
        assert line in pages, line


def test_curves_of_kept_runs_are_drawn(tmp_path):
    sizes = []
    for names in ("mnist_rotations", "mnist_rotations,mnist_permuted"):
        path = tmp_path / "pictures" / f"{names}.png"
        command = [sys.executable, ROOT / "scripts" / "curves.py", f"--run={names}"]
        subprocess.run([*command, f"--out={path}"], check=True)
        pixels = np.asarray(Image.open(path).convert("RGB"))
        sizes.append(len(np.unique(pixels.reshape(-1, 3), axis=0)))
    assert sizes[1] > sizes[0]  # Another line has another colour.


def test_every_algorithm_has_its_place():
    for path in (ROOT / "metajax" / "algorithms").glob("[a-z]*.py"):
        assert f"metajax/algorithms/{path.name}" in README, path.name


def test_the_walk_through_the_runner_names_what_is_there():
    text = (ROOT / "experiments" / "README.md").read_text()
    now, _, _ = text.partition("## What the redesign changed")
    for path in re.findall(r"[a-z_/]+\.py", now):
        folders = ("", "few_shot", "running", "few_shot/learners")
        where = [ROOT / "experiments" / folder / path for folder in folders]
        assert any(place.exists() for place in (*where, ROOT / path)), path
    for path in (ROOT / "experiments" / "running").glob("[a-z]*.py"):
        if path.stem not in ("options", "experiment"):  # Values, which it shows.
            assert path.name in text, path.name
    learner = (ROOT / "experiments" / "few_shot" / "learners" / "cavia.py").read_text()
    lines = re.findall(r"NUM_CONTEXT = .*|LEARNER = .*|    also=.*", learner)
    assert len(lines) == 3 and all(line in text for line in lines)


def test_every_preset_has_its_place():
    for path in (ROOT / "experiments" / "presets").glob("*.flags"):
        assert f"`{path.stem}`" in README, path.name
