"""The examples run, at a smaller size, and end in the table or picture they promise."""

from types import SimpleNamespace

import jax
import numpy as np
from PIL import Image
import pytest

from experiments.examples import (
    frozen_backbone,
    learned_training,
    own_bilevel,
    own_images,
    own_learner,
    own_model,
    own_texts,
    resumed_and_exported,
    seeds_compared,
    whole_training,
)
import metajax as mj

QUICK = ["--num_steps=2", "--num_tasks=2", "--num_validation_tasks=3"]
QUICK += ["--num_test_tasks=4", "--platform=cpu"]


@pytest.fixture(autouse=True)
def glyphs(monkeypatch):
    """Small noise in the place of drawn characters."""

    def noise(split, num_classes=20):
        random = np.random.default_rng(len(split))
        pixels = random.integers(0, 256, (num_classes, 10, 8, 8, 1), dtype=np.uint8)
        labels = np.repeat(np.arange(num_classes), 10)
        return mj.data.from_arrays(pixels.reshape(-1, 8, 8, 1), labels)

    monkeypatch.setattr(mj.data, "glyphs", noise)


def lines(capsys, start):
    """What was printed from a line on that begins so."""
    printed = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(printed) if line.startswith(start))
    return printed[first:]


def test_own_images(tmp_path, capsys):
    random = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "images" / f"kind{label}"
        folder.mkdir(parents=True)
        pattern = random.integers(0, 200, (8, 8, 3))
        for index in range(5):
            noisy = (pattern + random.integers(0, 50, pattern.shape)).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{index}.png")
    picture = tmp_path / "out.png"
    own_images.main(tmp_path / "images", picture, size=8, num_steps=5)
    assert len(lines(capsys, "step 1:")) == 6
    assert min(Image.open(picture).size) > 100


def test_own_texts(tmp_path, capsys):
    file = tmp_path / "texts.csv"
    rows = [
        f"word{label} and some more of {i},{label}"
        for label in range(10)
        for i in "abcd"
    ]
    file.write_text("\n".join(["text,label", *rows]))
    own_texts.main(file, num_steps=2, num_tasks=20)
    table = lines(capsys, "tf-idf")
    assert len(table) == 3 and "task by task" in table[2]


def test_own_learner(capsys):
    own_learner.main(num_steps=2, num_classes=20, num_test_tasks=20)
    assert len(lines(capsys, "learner")) == 4  # The laws hold it to more.


def test_whole_training(data_dir, tmp_path, capsys):
    picture = tmp_path / "out.png"
    whole_training.main(
        picture, data_dir, rates=(1e-3,), num_steps=100, images_a_class=60, hidden=16
    )
    row = lines(capsys, "rate")[1].split()
    assert float(row[2]) > 0.7 and len(row) == 3 + 2 * 3
    assert min(Image.open(picture).size) > 100


def test_learned_training(data_dir, tmp_path, capsys):
    picture = tmp_path / "out.png"
    learned_training.main(
        picture, data_dir, num_steps=4, outer_steps=10, seeds=2, unseen_a_class=5
    )
    printed = lines(capsys, "Learning: learned rates")
    losses = [float(line.split()[-1]) for line in printed if line.startswith("step")]
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert sum("+-" in line for line in printed) == 3
    assert min(Image.open(picture).size) > 100


def test_augmentation_moves_turns_and_zooms_about_the_middle():
    draw = learned_training.augmented
    nothing = jax.numpy.full(4, -20.0)
    image = np.zeros((5, 14, 14), np.float32)
    image[:, 6:8, 6:8] = 1
    key = jax.random.key(0)
    np.testing.assert_allclose(draw(key, nothing, image), image, atol=1e-5)
    for which, keeps in ((0, True), (1, False), (2, True), (3, False)):
        found = draw(key, nothing.at[which].set(np.log(0.3)), image)
        place = np.einsum("byx,cyx->bc", found, np.mgrid[:14, :14])
        place /= found.sum(axis=(1, 2))[:, None]
        assert keeps == bool(np.allclose(place, 6.5, atol=1e-3)), which
        assert np.abs(found - image).max() > 1e-3


def test_own_model(capsys):
    own_model.main(num_steps=2, num_tasks=10)
    table = lines(capsys, "model")
    assert len(table) == 4 and " 121 " in table[1]


def test_frozen_backbone(capsys):
    frozen_backbone.main(num_steps=2, num_classes=20, num_test_tasks=20)
    assert len(lines(capsys, "learner")) == 4


def test_own_bilevel(tmp_path, capsys):
    own_bilevel.main(tmp_path / "out.png", num_steps=20)
    (line,) = lines(capsys, "error on unseen")
    before, after = (float(word.rstrip(",")) for word in line.split() if "." in word)
    assert after < before
    assert min(Image.open(tmp_path / "out.png").size) > 100


@pytest.fixture
def runs_here(run, monkeypatch):
    """Makes the runs of an example in this process, of few characters."""

    def here(command, check):
        code, _, errors = run(*command[3:])
        assert check and code == 0, errors

    for example in (seeds_compared, resumed_and_exported):
        monkeypatch.setattr(example, "subprocess", SimpleNamespace(run=here))


def test_seeds_compared(runs_here, tmp_path, capsys):
    more = [*QUICK, "--eval_inner_steps=0,1", "--select_inner_steps=1"]
    seeds_compared.main(tmp_path, num_seeds=2, places=(0, 1), more=more)
    table = lines(capsys, "inner steps   maml")
    assert len(table) == 3 and all("+-" in line for line in table[1:])


def test_resumed_and_exported(runs_here, tmp_path, capsys):
    more = [*QUICK[1:], "--eval_every_steps=2"]
    resumed_and_exported.main(tmp_path, num_steps=4, more=more)
    found = lines(capsys, "the same parameters")
    assert found[0].endswith("True") and float(found[2].split()[-1]) < 1e-4
