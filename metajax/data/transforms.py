"""What is done to a task's images when it is drawn, inside jit."""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from metajax.base import Key
from metajax.data.few_shot import Transform


def quarter_turns(key: Key, images: jax.Array) -> jax.Array:
    """Turns each class of a task by a random multiple of 90 degrees.

    Args:
      key: a random key.
      images: square images, `[ways, examples, size, size, channels]`.

    Returns:
      The turned images, of the same shape.

    Source:
      Santoro et al. 2016 (arXiv 1605.06065); drawn once a class and task, in training
      and in testing, as in the code of Finn et al. 2017.
    """
    turns = jax.random.randint(key, (len(images),), 0, 4)
    rotations = [lambda image, k=k: jnp.rot90(image, k, axes=(1, 2)) for k in range(4)]
    return jax.vmap(lambda k, image: jax.lax.switch(k, rotations, image))(turns, images)


@functools.cache  # One transform a range, so that a sampler made again is not retraced.
def rotate(low: float, high: float) -> Transform:
    """Turns all images of a task by one random angle, with linear interpolation.

    Args:
      low: smallest angle, in degrees.
      high: largest angle, in degrees.

    Returns:
      A transform of images `[ways, examples, height, width, channels]`; what comes from
      outside an image is 0.
    """

    def transform(key: Key, images: jax.Array) -> jax.Array:
        angle = jnp.deg2rad(jax.random.uniform(key, (), minval=low, maxval=high))
        height, width = images.shape[2:4]
        y, x = jnp.meshgrid(
            jnp.arange(height) - (height - 1) / 2,
            jnp.arange(width) - (width - 1) / 2,
            indexing="ij",
        )
        sources = [
            jnp.cos(angle) * y + jnp.sin(angle) * x + (height - 1) / 2,
            jnp.cos(angle) * x - jnp.sin(angle) * y + (width - 1) / 2,
        ]

        def turn(image):  # [height, width]
            return map_coordinates(image, sources, order=1)

        flat = jnp.moveaxis(images, -1, 2).reshape(-1, height, width)
        turned = jax.vmap(turn)(flat).reshape(*images.shape[:2], -1, height, width)
        return jnp.moveaxis(turned, 2, -1)

    return transform


@functools.cache
def flips_and_crops(pad: int = 4) -> Transform:
    """Mirrors and moves every image of a task on its own: for training alone.

    Half of the images are mirrored, left to right; each is moved by up to `pad` pixels
    either way, as if cropped at random from the image with a border of zeros.

    Args:
      pad: width of the border, in pixels; 0 for flips alone.

    Returns:
      A transform of images `[ways, examples, height, width, channels]`.

    Raises:
      ValueError: if `pad` is negative.

    Source:
      He et al. 2016 (arXiv 1512.03385), section 4.2, for CIFAR-10.
    """
    if pad < 0:
        raise ValueError(f"flips_and_crops: pad must be 0 or more: got {pad}.")

    def one(key: Key, image: jax.Array) -> jax.Array:  # [height, width, channels]
        flip_key, crop_key = jax.random.split(key)
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        top, left = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    def transform(key: Key, images: jax.Array) -> jax.Array:
        flat = images.reshape(-1, *images.shape[2:])
        keys = jax.random.split(key, len(flat))
        return jax.vmap(one)(keys, flat).reshape(images.shape)

    return transform
