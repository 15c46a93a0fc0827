"""Image files of others: as a viewer shows them, in 8 bits a channel, or refused."""

from collections.abc import Mapping
import contextlib
import os
from typing import Any, BinaryIO
import warnings

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from metajax.data.files import check_regular

# Pillow knows dozens more, of which some start programs: Ghostscript for PostScript.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 50_000_000  # Kilobytes may hold more, which would take gigabytes.
_MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
)


def open_image(file: str | os.PathLike | BinaryIO) -> Image.Image:
    """Opens an image of one of `FORMATS`, told by its content, within `MAX_PIXELS`.

    Args:
      file: the path, or the open file.

    Returns:
      The image, whose pixels are still to be read.

    Raises:
      ValueError: if the image is of another format, or has too many pixels.
    """
    too_many = f"more than {MAX_PIXELS} pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(too_many) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"none of {', '.join(FORMATS)} by its content") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(too_many)
    return image


def as_colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour, as "white" or "#808080"."""
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(
            f"background must be a colour, as white or #808080: got {name!r}."
        ) from error


def read_image(
    file: str | os.PathLike | Image.Image,
    size: int,
    *,
    grey: bool,
    background: tuple[int, int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Reads an image as a viewer shows it: upright, its full range in 8 bits.

    Args:
      file: a regular file, or an image that is open.
      size: the image is resized to `size` by `size` pixels.
      grey: whether to make one channel instead of three.
      background: red, green and blue of what transparent parts are laid over.
      resample: how pixels are averaged when it is resized.

    Returns:
      The pixels, `[size, size, channels]`, uint8; of an animation its first frame.

    Raises:
      ValueError: if the file is no such image, with its name.
    """
    is_open = isinstance(file, Image.Image)
    if not is_open:
        check_regular(os.fspath(file))
    try:
        with contextlib.nullcontext(file) if is_open else open_image(file) as image:
            # TIFF's own: bits, and whether 0 is white. A transposed image lacks them.
            tags = getattr(image, "tag_v2", {})
            eight_bits = _in_eight_bits(ImageOps.exif_transpose(image), tags)
            shown = _over(eight_bits, background)
            shown = shown.convert("L" if grey else "RGB").resize((size, size), resample)
    except Exception as error:  # There is no telling what damage makes Pillow raise.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{file} cannot be read as an image ({reason}); remove or replace it."
        ) from error
    return np.asarray(shown).reshape(size, size, -1)


def _in_eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Scales grey of 16 bits and of floats, which Pillow would clip at 255."""
    if image.mode.startswith("I;16"):
        full = 2 ** tags.get(258, (16,))[0] - 1
    elif image.mode == "F":
        full = 1
    elif image.mode in _MODES:
        return image
    else:
        raise ValueError(f"its mode {image.mode} has no known range: make it 8 bits")
    values = np.asarray(image) / np.float32(full)
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("its floating-point values are not all from 0 to 1")
    if tags.get(262) == 0:
        values = 1 - values
    scaled = Image.fromarray(np.rint(255 * values).astype(np.uint8))
    if "transparency" in image.info:  # The one value that is.
        clear = np.asarray(image) == image.info["transparency"]
        scaled.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return scaled


def _over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if not image.has_transparency_data:
        return image
    ground = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(ground, image.convert("RGBA"))
