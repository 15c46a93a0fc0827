"""The pages say what is so: code runs, tables are complete and recorded, links lead on."""

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
PAGES = {
    str(path.parent.relative_to(ROOT)): path.read_text()
    for folder in ("", "metajax", "experiments", "scripts", "tests")
    for path in sorted((ROOT / folder).glob("**/README.md" if folder else "README.md"))
}
HOME, LIBRARY, GAMES = (PAGES[name] for name in (".", "metajax", "experiments/meta_rl"))


def block(page: str, words: str) -> str:
    """The one piece of Python on a page that contains these words."""
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (found,) = (block for block in blocks if words in block)
    return found


def test_the_first_page_is_read_in_minutes():
    assert len(HOME.splitlines()) <= 150
    assert len(HOME.encode()) <= 10 * 1024


def test_the_first_script_runs(capsys, monkeypatch):
    short = block(HOME, "mj.evaluate(")
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
    short = block(GAMES, "mj.evaluate(")
    for long, few in (
        ("num_steps=20)", "num_steps=1)"),
        ("num_tasks=256", "num_tasks=4"),
        ("num_tasks=1000", "num_tasks=3"),
    ):
        assert long in short
        short = short.replace(long, few)
    exec(short, {})
    mean, interval = eval(capsys.readouterr().out)
    assert 0 <= mean <= 10 and interval >= 0


def test_the_script_that_trains_an_update_rule_runs():
    short = block(LIBRARY, "mj.rules.training(")
    for long, few in (
        ("num_steps=1000", "num_steps=2"),
        ("num_tasks=100", "num_tasks=3"),
        ("window=20, horizon=200", "window=2, horizon=4"),
        ("dynamics, 200", "dynamics, 4"),
    ):
        assert long in short
        short = short.replace(long, few)
    rule, key = mj.rules.per_parameter(4), jax.random.key(0)
    names = {"mj": mj, "rule": rule, "key": key, "meta": rule.init(key)}
    names |= {"optimizer": optax.adam(1e-3), "sampler": jax.random.normal}
    names["init"] = lambda key, task: jax.numpy.zeros(2)
    names["loss"] = lambda key, params, task: jax.numpy.sum((params - task) ** 2)
    exec(short, names)
    assert np.isfinite(names["found"].values["last_loss"]).all()


def test_the_page_of_games_names_all_there_is():
    for kind in (GAME_PARTS, LEARNERS, POLICIES):
        for name in kind:
            assert f"`{name}`" in GAMES, name


OWN_LEARNER = block(HOME, "mj.MetaLearner(")


def test_the_learner_of_ones_own_trains_and_beats_chance():
    names = {"jax": jax, "mj": mj}
    exec(OWN_LEARNER, names)
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
    exec(OWN_LEARNER, names)
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
    names = {"mj": mj}
    exec(block(LIBRARY, "fitting_head"), names)
    model = mj.models.mlp([4], None)
    random = np.random.default_rng(0)
    support = mj.Batch(random.normal(size=(6, 5)).astype(np.float32), np.arange(6) % 3)
    meta = model.init(jax.random.key(0), support.inputs)
    outputs = [
        learner.predict(meta, learner.adapt(None, meta, support), support.inputs)
        for learner in (names["nearest_mean"](model, 3), mj.protonet(model, 3))
    ]
    np.testing.assert_array_equal(*outputs)


def test_a_sampler_a_model_and_an_objective_of_ones_own_train_on_all_devices():
    names = {"jax": jax, "mj": mj, "optax": optax}
    exec(block(LIBRARY, "def sample(key)"), names)
    learner, sample, optimizer = names["learner"], names["sample"], optax.adam(0.1)
    start = mj.init_state(jax.random.key(0), learner, optimizer, sample)
    names["state"] = start._replace(meta=2 + 0 * start.meta)
    exec(block(LIBRARY, "task_mesh()"), names)
    step = mj.train_step(names["meta_grad"], optimizer)
    state, _ = mj.train(step, names["state"], sample, num_tasks=16, num_steps=60)
    assert abs(float(state.meta[0, 0])) < 0.5  # Slopes are as often up as down.


def test_own_arrays_become_tasks_and_parameters_are_adapted_frozen_or_read(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1)).astype(np.uint8)
    names = {"mj": mj, "images": images, "labels": np.repeat(np.arange(10), 6)}
    exec(block(LIBRARY, "from_arrays"), names)
    task = names["train_data"](jax.random.key(0))
    assert task.support.inputs.shape == (6, 8, 8, 1)

    model, loss = mj.models.conv4(3, width=2), mj.losses.cross_entropy
    backbone = jax.jit(model.init)(jax.random.key(1), task.support.inputs)
    mj.trees.save("backbone.npz", backbone)
    names |= {"model": model, "loss": loss, "optax": optax, "key": jax.random.key(0)}
    names["outer_optimizer"] = optax.sgd(1.0)
    exec(block(LIBRARY, "backbone.npz").replace("sgd(0.1), 5", "sgd(0.1), 1"), names)
    jax.tree.map(np.testing.assert_array_equal, names["state"].meta, backbone)

    learner, meta = names["learner"], names["state"].meta
    objective = mj.query_loss(learner, loss)
    gradient = jax.jit(jax.grad(lambda meta: objective(None, meta, task)[0]))(meta)
    moved = {name for name in meta if any(map(np.any, jax.tree.leaves(gradient[name])))}
    assert not moved & {"Conv_0", "Conv_1"} and {"Conv_2", "Conv_3", "head"} <= moved
    adapted = jax.jit(learner.adapt)(None, meta, task.support)
    adapted = getattr(adapted, "params", adapted)
    for name in meta:
        same = jax.tree.map(np.array_equal, adapted[name], meta[name])
        assert all(jax.tree.leaves(same)) == (name != "head")


def test_own_texts_are_encoded_by_a_function_of_ones_own():
    names = {"mj": mj, "texts": ["one", "seven", "two"], "labels": list("aba")}
    names["embed"] = lambda texts: np.array([[len(text)] for text in texts])
    exec(block(LIBRARY, "from_encoder(embed"), names)
    assert names["vectors"].inputs.tolist() == [[3], [3], [5]]


@pytest.mark.parametrize("script", ["reproduce", "side_by_side"])
def test_the_tables_of_results_are_what_was_recorded(script):
    command = [sys.executable, ROOT / "scripts" / f"{script}.py"]
    printed = subprocess.run(command, capture_output=True, text=True).stdout
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) > 2
    pages = PAGES["experiments/results"] + GAMES
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
        assert f"| `metajax/algorithms/{path.name}` |" in LIBRARY, path.name


def test_the_walk_through_the_runner_names_what_is_there():
    text = PAGES["experiments"]
    now, _, _ = text.partition("## What the redesign changed")
    for path in re.findall(r"[a-z_/]+\.py", now):
        folders = ("", "few_shot", "running", "few_shot/learners", "examples")
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
        assert f"`{path.stem}`" in PAGES["experiments"], path.name


def anchors(page: str) -> set[str]:
    """What links may name on a page: its headings, as GitHub spells them."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_and_paths_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)]*)\)", PAGES[name]):
        path, _, anchor = link.partition("#")
        target = (ROOT / name / path).resolve()
        assert target.exists(), link
        if anchor:
            page = PAGES[str((target.parent if path else target).relative_to(ROOT))]
            assert anchor in anchors(page), link
    places = r"`((?:metajax|experiments|scripts|tests)/[\w./-]+)`"
    for path in re.findall(places, PAGES[name]):
        assert (ROOT / path).exists(), path


def test_no_sentence_stands_twice():
    seen = {}
    for name, page in PAGES.items():
        prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
        prose = re.sub(r"^(\||#|!).*", "", prose, flags=re.MULTILINE)
        for sentence in re.split(r"(?<=[.:])\s+", prose):
            words = " ".join(sentence.split())
            if len(words) > 40:
                assert words not in seen, (name, seen[words], words)
                seen[words] = name
