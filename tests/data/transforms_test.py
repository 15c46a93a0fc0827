"""Turns are exact where they can be, and linear interpolation where they cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.transforms import flips_and_crops, quarter_turns, rotate


def _images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_quarter_turns_equal_rot90_pixel_by_pixel_with_one_turn_a_class(dtype):
    # Every pixel has its own value, so that a turn is known by what it gives.
    images = np.arange(4 * 3 * 5 * 5 * 2).reshape(4, 3, 5, 5, 2).astype(dtype)
    turn = jax.jit(quarter_turns)
    seen = np.zeros((4, 4), int)
    for seed in range(20):
        turned = np.asarray(turn(jax.random.key(seed), images))
        assert turned.dtype == dtype
        for way in range(4):
            # Axes 1, 2 of the examples of one class: all of them turn together.
            fits = [
                np.array_equal(turned[way], np.rot90(images[way], k, axes=(1, 2)))
                for k in range(4)
            ]
            assert sum(fits) == 1
            seen[way, fits.index(True)] += 1
    assert (seen > 0).all()  # In 20 draws one is missing with a chance below 5%.
    assert (seen.std(axis=0) > 0).any()  # Classes turn on their own.


def test_quarter_turns_are_equally_likely_and_independent_between_classes():
    images = np.broadcast_to(
        np.arange(4, dtype=np.int32).reshape(1, 1, 2, 2, 1), (2, 1, 2, 2, 1)
    )
    keys = jax.random.split(jax.random.key(0), 1600)
    corners = jax.jit(jax.vmap(quarter_turns, (0, None)))(keys, images)[..., 0, 0, 0, 0]
    pairs = np.zeros((4, 4))
    np.add.at(pairs, tuple(np.asarray(corners).T), 1)
    assert np.sum((pairs - 100) ** 2 / 100) < 15 + 5 * np.sqrt(30)


def _rotated(degrees, images, seed=0):
    return rotate(degrees, degrees)(jax.random.key(seed), jnp.asarray(images))


@pytest.mark.parametrize("degrees, turns", [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_positive_angles_turn_counterclockwise_as_rot90_does(degrees, turns):
    images = _images(2, 3, 6, 6, 2)
    np.testing.assert_allclose(
        _rotated(degrees, images), np.rot90(images, turns, axes=(2, 3)), atol=1e-5
    )


def test_the_centre_of_an_oblong_image_stays():
    images = _images(1, 2, 5, 8, 1)
    np.testing.assert_allclose(
        _rotated(180, images), images[:, :, ::-1, ::-1], atol=1e-5
    )


def test_what_comes_from_outside_is_zero():
    turned = _rotated(45, np.ones((1, 1, 9, 9, 1), np.float32))[0, 0, ..., 0]
    y, x = np.mgrid[-4:5, -4:5]
    outside = (np.abs(y) + np.abs(x)) > 5 * np.sqrt(2)
    inside = (np.abs(y) + np.abs(x)) < 4 * np.sqrt(2)
    assert outside.sum() == 4
    np.testing.assert_array_equal(turned[outside], 0)
    np.testing.assert_allclose(turned[inside], 1, atol=1e-6)


def test_the_angle_is_uniform_between_the_bounds_and_one_for_all_images():
    """A linear image turns into a linear image, whose slopes give the angle."""
    ramp = np.broadcast_to(np.arange(-3.0, 4.0, dtype=np.float32), (7, 7))
    images = np.broadcast_to(ramp[None, None, :, :, None], (2, 2, 7, 7, 2))
    keys = jax.random.split(jax.random.key(0), 500)
    turned = jax.jit(jax.vmap(rotate(-30.0, 60.0), (0, None)))(keys, images)
    np.testing.assert_allclose(turned, turned[:, :1, :1, ..., :1] + 0 * turned)
    centre = np.asarray(turned)[:, 0, 0, 2:5, 2:5, 0]
    across = (centre[:, 1, 2] - centre[:, 1, 0]) / 2
    down = (centre[:, 2, 1] - centre[:, 0, 1]) / 2
    np.testing.assert_allclose(across**2 + down**2, 1, atol=1e-5)
    angles = np.rad2deg(np.arctan2(-down, across))
    ranks = (np.arange(500) + 0.5) / 500
    assert np.abs((np.sort(angles) + 30) / 90 - ranks).max() < 2.47 / np.sqrt(500)


def test_interpolation_is_linear_between_pixels():
    """At 45 degrees the pixel right of the centre looks half a diagonal away."""
    images = _images(1, 1, 5, 5, 1)
    image, step = images[0, 0, :, :, 0], np.sqrt(0.5)
    corners = np.array([[image[2, 2], image[2, 3]], [image[3, 2], image[3, 3]]])
    weights = np.array([1 - step, step])
    expected = weights @ corners @ weights
    turned = _rotated(45, images)[0, 0, :, :, 0]
    np.testing.assert_allclose(turned[2, 3], expected, atol=1e-6)


def test_every_image_is_flipped_and_moved_on_its_own():
    """Which of the flips and places there are each image took, told from its pixels."""
    image = np.arange(1.0, 21.0, dtype=np.float32).reshape(4, 5, 1)
    padded = [np.pad(i, ((2, 2), (2, 2), (0, 0))) for i in (image, image[:, ::-1])]
    places = np.stack(
        [p[y : y + 4, x : x + 5] for p in padded for y in range(5) for x in range(5)]
    )
    images = np.broadcast_to(image, (3, 4, *image.shape))
    keys = jax.random.split(jax.random.key(0), 500)
    moved = jax.jit(jax.vmap(flips_and_crops(2), (0, None)))(keys, images)
    moved = np.asarray(moved).reshape(500, 12, 4, 5, 1)
    codes = moved.reshape(6000, -1) @ np.sqrt(np.arange(2.0, 22.0))
    known = places.reshape(50, -1) @ np.sqrt(np.arange(2.0, 22.0))
    taken = np.abs(codes[:, None] - known[None]).argmin(axis=1)
    np.testing.assert_array_equal(moved.reshape(6000, 4, 5, 1), places[taken])
    tally = np.bincount(taken, minlength=50)
    assert np.sum((tally - 120) ** 2 / 120) < 49 + 5 * np.sqrt(98)
    pairs = taken.reshape(500, 12)
    for other in (1, 4):  # An example of the same class, and one of another.
        assert 0 < (pairs[:, 0] == pairs[:, other]).mean() < 0.06  # 0.02 by chance.


def test_without_a_border_images_are_only_flipped():
    images = _images(2, 8, 3, 3, 2)
    flipped = np.asarray(jax.jit(flips_and_crops(0))(jax.random.key(0), images))
    same = (flipped == images).all(axis=(2, 3, 4))
    mirrored = (flipped == images[:, :, :, ::-1]).all(axis=(2, 3, 4))
    assert (same ^ mirrored).all() and same.any() and mirrored.any()


def test_a_negative_border_is_refused():
    with pytest.raises(ValueError, match="pad must be 0 or more: got -1"):
        flips_and_crops(-1)
