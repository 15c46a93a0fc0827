"""Raw examples, brought to the form of those that a learner was trained on."""

from collections.abc import Callable, Sequence
import os
from typing import Any, Literal

import jax
import numpy as np
from PIL import Image

from metajax.data.images import as_colour, read_image
from metajax.data.numeric import as_numbers
from metajax.data.text import Encode, encoded, padded

# From raw examples to inputs [examples, ...]; uint8 stands for 0 to 1, as in
# `ClassArrays`.
Read = Callable[[Sequence[Any]], np.ndarray]


def image_reader(
    size: int,
    *,
    grey: bool = False,
    background: str = "white",
    resample: Literal["nearest", "bicubic", "lanczos"] = "bicubic",
    inverted: bool = False,
) -> Read:
    """Reads image files, open images and arrays as images of one size.

    Files and open images are read as `from_folder` reads them, and resized. Arrays must
    be `[size, size, channels]`, or `[size, size]` where images are grey, of uint8 or
    from 0 to 1, and are taken as they are.

    Args:
      size: height and width, in pixels.
      grey: whether images have one channel instead of three.
      background: the colour of what transparent parts are laid over.
      resample: how pixels are averaged when a file is resized.
      inverted: whether dark is high in what is learned from: files of black ink on white
        then have ink of 255 on 0.

    Returns:
      A function from images to `[examples, size, size, channels]`, uint8, or float32 if
      some are, which raises a ValueError that names the first image that does not fit.

    Example:
      >>> read = image_reader(28, grey=True)
      >>> read([Image.new("RGB", (640, 480)), np.ones((28, 28))]).shape
      (2, 28, 28, 1)
    """
    colour, how = as_colour(background), Image.Resampling[resample.upper()]
    shape = size, size, 1 if grey else 3

    def read_one(index: int, image: Any) -> np.ndarray:
        if isinstance(image, str | os.PathLike | Image.Image):
            pixels = read_image(image, size, grey=grey, background=colour, resample=how)
            return 255 - pixels if inverted else pixels
        if not hasattr(image, "dtype"):
            raise ValueError(
                f"Image {index} must be a path, a PIL image or an array: got a "
                f"{type(image).__name__}."
            )
        return _pixels(f"Image {index}", as_numbers(image, f"Image {index}"), shape)

    def read(images: Sequence[Any]) -> np.ndarray:
        each = [
            read_one(i, image) for i, image in enumerate(_several(images, "images"))
        ]
        if len({pixels.dtype for pixels in each}) > 1:
            each = [_from_0_to_1(pixels) for pixels in each]
        return np.stack(each)

    return read


def _pixels(name: str, image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    if image.shape == shape[:2] and shape[2] == 1:
        image = image[..., None]
    if image.shape != shape:
        raise ValueError(
            f"{name} is {list(image.shape)}, but arrays must be {list(shape)}, as those "
            "learned from: resize it, or give a file or a PIL image, which are resized."
        )
    return _in_range(name, image)


def _in_range(name: str, values: np.ndarray) -> np.ndarray:
    """Values of uint8, or from 0 to 1 in float32."""
    if values.dtype == np.uint8:
        return values
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{name} is {values.dtype} from {low} to {high}: make it uint8 from 0 to 255, "
            "or scale it to float32 from 0 to 1."
        )
    return values.astype(np.float32)


def _from_0_to_1(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels


def text_reader(encode: Encode, length: int | None = None) -> Read:
    """Reads strings as ids of tokens.

    Args:
      encode: from a text to its ids, such as `words()` or `ngrams()`.
      length: ids kept of a text; as many as the longest of them has, if None.

    Returns:
      A function from texts to int32 ids `[examples, length]`, padded with 0, which
      raises a ValueError that names the first text without a token.
    """

    def read(texts: Sequence[Any]) -> np.ndarray:
        ids = encoded(_several(texts, "texts"), encode)
        return padded(ids, length or max(map(len, ids)))

    return read


def array_reader(shape: tuple[int, ...], dtype: Any) -> Read:
    """Reads arrays of one shape.

    Args:
      shape: of one example.
      dtype: of those learned from. Where they are uint8, which stands for 0 to 1, so must
        be what is read, or from 0 to 1; where they are integers, it must be integers.

    Returns:
      A function from examples to `[examples, *shape]`, which raises a ValueError if they
      do not fit.
    """
    dtype = np.dtype(dtype)

    def read(examples: Sequence[Any]) -> np.ndarray:
        array = as_numbers(_several(examples, "examples"), "Examples")
        if array.shape[1:] != tuple(shape):
            raise ValueError(
                f"Examples are {list(array.shape)}, but must be [examples, "
                f"{', '.join(map(str, shape))}], as those learned from."
            )
        if dtype == np.uint8:
            return _in_range("Examples", array)
        if dtype.kind in "iu" and array.dtype.kind not in "iu":
            raise ValueError(f"Examples must be integers: got {array.dtype}.")
        if not np.isfinite(array).all():
            raise ValueError("Examples hold NaN or infinite values; clean them.")
        return array.astype(dtype)

    return read


def _several(examples: Any, what: str) -> Any:
    """A list or an array of at least one example, not one alone."""
    is_array = isinstance(examples, np.ndarray | jax.Array) and examples.ndim > 0
    if not is_array and not isinstance(examples, list | tuple):
        raise ValueError(
            f"Give several {what}, as a list or an array: got {type(examples).__name__}."
        )
    if not len(examples):
        raise ValueError(f"There are no {what}: give at least one.")
    return examples
