"""An endless stand-in for Omniglot: invented characters, drawn as pen strokes.

A class is a `Program`, drawn from a key; an example is a person's attempt to write it.
Everything is a pure function of keys, so that an image can be drawn inside jit, too.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Key
from metajax.data.class_arrays import ClassArrays, from_arrays

_SPLITS = ("train", "validation", "test")
_STROKES, _CONTROLS = 4, 6  # At most, and for each stroke.
_LACKING = np.array([0, 0.2, 0.55, 0.85], np.float32)  # How often a stroke is absent.
_LAYOUTS = 4  # Ways to place the strokes, of which the clearest is taken.
_SAMPLES = 16  # Points between two controls: less than a pixel apart at size 28.
_MARGIN = 0.85  # The pen stays this near to the centre of the box from -1 to 1.

# The basic shapes of a stroke: its turns in degrees at each inner control, and whether
# the pen turns smoothly (1) or sharply (0).
_SHAPES = np.array(
    [
        [0, 0, 0, 0, 1],  # a line
        [0, 0, 0, 0, 1],  # and again, for lines are common
        [25, 25, 25, 25, 1],  # an arc
        [48, 48, 48, 48, 1],  # a bowl
        [75, 75, 75, 75, 1],  # a circle
        [10, 40, 80, 90, 1],  # a curl
        [0, 0, 60, 70, 1],  # a hook
        [80, 70, 0, 0, 1],  # a cane
        [55, 55, -55, -55, 1],  # a wave
        [0, 100, 0, 0, 0],  # a corner
        [0, 120, -120, 0, 0],  # a zigzag
        [90, 0, 90, 0, 0],  # three sides of a box
    ],
    np.float32,
)


class Program(NamedTuple):
    """How to write a character, in a box from -1 to 1 where x runs right and y down."""

    points: jax.Array  # [strokes, controls, 2]: the pen passes here, as (x, y).
    smooth: jax.Array  # [strokes]: 1 where it turns smoothly, 0 where sharply.
    mask: jax.Array  # [strokes], bool: which strokes there are.


def draw_program(key: Key) -> Program:
    """Invents a character: one to four strokes, most of them touching an earlier one.

    As in Bayesian Program Learning, a stroke starts anywhere or is attached to a point
    of an earlier stroke. The character is then centred and scaled.

    Args:
      key: a random key.

    Returns:
      The character, in arrays whose shapes are always the same.

    References:
      Lake et al, Human-level concept learning through probabilistic program induction,
      Science 2015.
    """
    shapes = (_STROKES, 2 * _CONTROLS + 2), (_LAYOUTS, _STROKES, 6), (), ()
    forms, places, number, size = _draws(jax.random.uniform, key, *shapes)
    strokes, smooth = _strokes(forms)
    mask = number >= jnp.asarray(_LACKING)
    points = _clearest(jax.vmap(_place, (0, None, None))(places, strokes, mask))
    low, high = jnp.min(points, axis=(0, 1)), jnp.max(points, axis=(0, 1))
    scale = (1.0 + 0.7 * size) / jnp.max(high - low)
    return Program((points - (low + high)[None, None] / 2) * scale, smooth, mask)


def _draws(draw: Callable, key: Key, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Arrays of these shapes from a single draw, for every draw compiles slowly."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = jnp.split(draw(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _strokes(chances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Strokes that start at 0, [strokes, controls, 2], and which are smooth."""
    shape, side, turn, size = chances[:, :4].T
    turn_noise, length_noise = jnp.split(2 * chances[:, 4:] - 1, 2, axis=1)
    shapes = jnp.asarray(_SHAPES)[(shape * len(_SHAPES)).astype(int)]
    bends = jnp.where(side < 0.5, -1, 1)[:, None] * shapes[:, :-1]
    # Each stroke heads elsewhere than the one before, so that they do not coincide.
    headings = jnp.cumsum(45 * jnp.rint(1 + 2 * turn))[:, None]
    turns = jnp.concatenate([headings, bends], axis=1) + 12 * turn_noise
    angles = jnp.deg2rad(jnp.cumsum(turns, axis=1))
    lengths = jnp.exp(0.45 * length_noise)
    steps = lengths[..., None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    points = jnp.pad(jnp.cumsum(steps, axis=1), ((0, 0), (1, 0), (0, 0)))
    extents = jnp.max(jnp.ptp(points, axis=1), axis=1)
    return points * ((0.35 + 0.65 * size) / extents)[:, None, None], shapes[:, -1]


def _place(chances: jax.Array, strokes: jax.Array, mask: jax.Array) -> jax.Array:
    """Moves each stroke to where it belongs: [strokes, controls, 2]."""
    for stroke in range(1, _STROKES):
        earlier, control, alone, cross, *corner = chances[stroke]
        which, where = (earlier * stroke, control * _CONTROLS)
        onto = strokes[which.astype(int), where.astype(int)]
        target = jnp.where(alone < 0.1, jnp.stack(corner) - 0.2, onto)
        # Most strokes touch the other by their start, some cross it.
        start = strokes[stroke, jnp.where(cross < 0.3, _CONTROLS // 2, 0)]
        strokes = strokes.at[stroke].add((target - start)[None])
    # Absent strokes lie on the first one, where they are in nobody's way.
    return jnp.where(mask[:, None, None], strokes, strokes[:1])


def _clearest(layouts: jax.Array) -> jax.Array:
    """The least cluttered of [layouts, strokes, controls, 2]."""
    middles = (layouts[:, :, 1:] + layouts[:, :, :-1]) / 2  # Joints are no clutter.
    middles = middles.reshape(_LAYOUTS, -1, 2)
    gaps = jnp.sum((middles[:, :, None] - middles[:, None]) ** 2, axis=-1)
    return layouts[jnp.argmin(jnp.sum(jnp.exp(-gaps / 0.02), axis=(1, 2)))]


def draw_example(key: Key, program: Program, size: int = 28) -> jax.Array:
    """Writes a character once, as a person would: never twice the same.

    The strokes drift, the whole is scaled, sheared, turned and moved a little, and the
    pen is broader or finer.

    Args:
      key: a random key.
      program: the character to write.
      size: height and width of the image.

    Returns:
      The image, `[size, size, 1]`, float32: 1 is ink and 0 is background.

    Example:
      >>> program = jax.jit(draw_program)(jax.random.key(0))
      >>> jax.jit(draw_example)(jax.random.key(1), program).shape
      (28, 28, 1)
    """
    points = program.points
    shapes = points.shape, (2, 2), (1, 2), ()
    drift, matrix, shift, pen = _draws(jax.random.normal, key, *shapes)
    reach = jnp.max(jnp.ptp(points, axis=1), axis=1)[:, None, None]
    points += (0.01 + 0.03 * reach) * jnp.cumsum(drift, axis=1)
    matrix, shift = jnp.eye(2) + 0.13 * matrix, 0.1 * shift
    curves = _curve(points, program.smooth) @ matrix + shift[None, None]
    curves *= jnp.minimum(1, _MARGIN / jnp.max(jnp.abs(curves)))
    width = 0.105 * jnp.exp(0.1 * pen)
    return _ink(curves, program.mask, width, size)[..., None]


def _curve(points: jax.Array, smooth: jax.Array) -> jax.Array:
    """Splines through the points: [strokes, controls - 1, samples + 1, 2]."""
    padded = jnp.concatenate([points[:, :1], points, points[:, -1:]], axis=1)
    tangents = smooth[:, None, None] * (padded[:, 2:] - padded[:, :-2]) / 2
    start, end = points[:, :-1, None], points[:, 1:, None]
    leave, arrive = tangents[:, :-1, None], tangents[:, 1:, None]
    time = jnp.linspace(0, 1, _SAMPLES + 1)[None, None, :, None]
    along = start + (end - start) * time**2 * (3 - 2 * time)
    bend = (1 - time) * leave - time * arrive
    return along + time * (1 - time) * bend


def _ink(curves: jax.Array, mask: jax.Array, width: jax.Array, size: int) -> jax.Array:
    """Draws the curves with a soft pen: [size, size].

    A Gaussian blur of the curves is one matrix product, for it is separable. It falls
    off as exp(-distance^2 / 2 blur^2) across a stroke, which gives the distance back.
    """
    pixel = 2 / size
    blur = 0.7 * pixel
    middles = ((curves[..., 1:, :] + curves[..., :-1, :]) / 2).reshape(-1, 2)
    lengths = jnp.linalg.norm(jnp.diff(curves, axis=-2), axis=-1)
    weights = (lengths * mask[:, None, None]).reshape(1, -1)
    pixels = (jnp.arange(size) + 0.5)[:, None] * pixel - 1
    columns, rows = (
        jnp.exp(-0.5 * ((pixels - middles[None, :, axis]) / blur) ** 2)
        for axis in range(2)
    )
    density = jnp.matmul(rows * weights, columns.T, precision="highest")
    density /= blur * jnp.sqrt(2 * jnp.pi)
    distance = blur * jnp.sqrt(-2 * jnp.log(jnp.clip(density, 1e-12, 1.0)))
    return jnp.clip((width / 2 - distance) / pixel + 0.5, 0.0, 1.0)


def glyphs(
    split: str, *, num_classes: int = 1000, examples_per_class: int = 20, seed: int = 0
) -> ClassArrays:
    """Draws a dataset of invented characters, without any file.

    A class depends on its split, its number and the seed alone, so that a larger
    dataset begins with the classes, and the examples, of a smaller one.

    Args:
      split: train, validation or test; no two share a class.
      num_classes: how many characters to invent.
      examples_per_class: how many drawings of each.
      seed: another seed gives other characters.

    Returns:
      28x28 images, uint8, `[examples, 28, 28, 1]`; 255 is ink and 0 is background.

    Raises:
      ValueError: if the split is unknown or a size is not positive.

    Example:
      >>> data = glyphs("train", num_classes=2, examples_per_class=3)
      >>> data.names, data.inputs.shape
      (('train-0000', 'train-0001'), (6, 28, 28, 1))
    """
    if split not in _SPLITS:
        raise ValueError(f"Unknown split {split!r}: one of {', '.join(_SPLITS)}.")
    if min(num_classes, examples_per_class) < 1:
        raise ValueError(
            f"glyphs needs num_classes and examples_per_class of at least 1: got "
            f"{num_classes} and {examples_per_class}."
        )
    key = jax.random.fold_in(
        jax.random.key(seed, impl="threefry2x32"), _SPLITS.index(split)
    )
    images = _draw_classes(key, num_classes, examples_per_class)
    labels = np.repeat(np.arange(num_classes), examples_per_class)
    names = [f"{split}-{c:04d}" for c in range(num_classes)]
    return from_arrays(images.reshape(-1, *images.shape[2:]), labels, names)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw_classes(key: Key, num_classes: int, num_examples: int) -> jax.Array:
    """Draws class after class: [classes, examples, 28, 28, 1], uint8."""
    fold_in = jax.vmap(jax.random.fold_in, (None, 0))

    def draw_class(class_key):
        keys = fold_in(class_key, jnp.arange(num_examples + 1))
        program = draw_program(keys[0])
        images = jax.vmap(draw_example, (0, None))(keys[1:], program)
        return jnp.rint(255 * images).astype(jnp.uint8)

    return jax.lax.map(draw_class, fold_in(key, jnp.arange(num_classes)))
