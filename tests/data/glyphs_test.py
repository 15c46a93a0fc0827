"""Glyphs are determined by their key, well drawn, and told apart by their class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.glyphs import draw_example, draw_program, glyphs

CLASSES, EXAMPLES = 60, 20


def pixels(split, seed=0):
    """Images in [0, 1], [classes, examples, 28, 28]."""
    inputs = glyphs(split, num_classes=CLASSES, seed=seed).inputs
    return np.asarray(inputs, np.float32).reshape(CLASSES, EXAMPLES, 28, 28) / 255


def squared_distances(left, right):
    left, right = left.reshape(-1, 784), right.reshape(-1, 784)
    norms = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1)[None]
    return norms - 2 * left @ right.T


@pytest.fixture(scope="module")
def images():
    return pixels("train")


def test_a_smaller_dataset_is_the_beginning_of_a_larger_one(images):
    data = glyphs("train", num_classes=3, examples_per_class=2)
    assert data.names == ("train-0000", "train-0001", "train-0002")
    assert data.rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert data.inputs.shape == (6, 28, 28, 1) and data.inputs.dtype == jnp.uint8
    few = np.asarray(data.inputs).reshape(3, 2, 28, 28) / 255
    # One level of grey is left to the compiler, which may reorder sums.
    np.testing.assert_allclose(few, images[:3, :2], atol=1.01 / 255)


def test_the_same_seed_draws_the_same_images(images):
    np.testing.assert_array_equal(pixels("train"), images)


@pytest.mark.parametrize("split, seed", [("validation", 0), ("test", 0), ("train", 1)])
def test_other_splits_and_seeds_hold_other_characters(images, split, seed):
    # A class that was shared would be drawn with the same keys: at distance 0.
    assert squared_distances(images, pixels(split, seed)).min() > 1


def test_every_image_shows_strokes_inside_the_box(images):
    ink = images.mean(axis=(2, 3))
    assert 0.01 < ink.min() and ink.max() < 0.3
    assert 0.05 < ink.mean() < 0.11  # Omniglot at this size: 0.08.
    assert images.max(axis=(2, 3)).min() > 0.9
    border = np.ones((28, 28), bool)
    border[1:-1, 1:-1] = False
    assert images[:, :, border].max() < 0.2


def test_pixels_tell_classes_apart_but_not_too_well(images):
    support, query = images[:, 0], images[:, 1]
    distances = squared_distances(query, support)
    same = np.eye(CLASSES, dtype=bool)
    assert distances[same].min() > 1  # No two drawings are alike.
    assert distances[same].mean() < 0.9 * distances[~same].mean()
    # The chance that 4 other classes, drawn at random, are all farther away.
    nearer = (distances < distances[same][:, None]).mean(axis=1) * CLASSES / 59
    accuracy = np.mean((1 - nearer) ** 4)
    assert 0.4 < accuracy < 0.75  # Chance: 0.2; Omniglot: 0.43.


def test_vmap_draws_what_a_loop_draws():
    def draw(key):
        program_key, example_key = jax.random.split(key)
        program = draw_program(program_key)
        return program, draw_example(example_key, program, size=20)

    keys = jax.random.split(jax.random.key(7), 8)
    programs, drawings = jax.jit(jax.vmap(draw))(keys)
    one_by_one = list(map(jax.jit(draw), keys))
    for index, (program, drawing) in enumerate(one_by_one):
        np.testing.assert_allclose(programs.points[index], program.points, atol=1e-4)
        np.testing.assert_array_equal(programs.mask[index], program.mask)
        np.testing.assert_allclose(drawings[index], drawing, atol=1e-2)
    assert drawings.shape == (8, 20, 20, 1) and drawings.dtype == jnp.float32
    assert drawings.min() == 0 and 0.9 < drawings.max() <= 1
    assert programs.mask[:, 0].all() and not programs.mask.all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"split": "dev"}, "'dev': one of train, validation, test"),
        ({"split": "test", "num_classes": 0}, "at least 1: got 0 and 20"),
        ({"split": "test", "examples_per_class": -1}, "at least 1: got 1000 and -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        glyphs(**arguments)
