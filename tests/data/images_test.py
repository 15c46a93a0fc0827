"""Images are read as a viewer shows them, and nothing but images is read."""

import io
import os
import struct
import subprocess
import warnings

import numpy as np
from PIL import Image
import pytest

from metajax.data import images
from metajax.data.images import open_image, read_image

RAMP = np.linspace(0, 1, 16).reshape(4, 4)  # From black to white, by row.
SEVENTEENS = np.arange(0, 256, 17, dtype=np.uint8).reshape(4, 4)  # The same in 8 bits.


def _read(file, size=4, grey=True, background=(255, 255, 255)):
    pixels = read_image(file, size, grey=grey, background=background)
    return pixels[..., 0] if grey else pixels


@pytest.mark.parametrize(
    "pixels, name, options",
    [
        (np.uint8(255 * RAMP), "a.png", {}),
        (np.uint16(65535 * RAMP), "a.png", {}),
        (np.uint16(65535 * RAMP), "a.tif", {}),
        (np.uint16(65535 * RAMP).astype(">u2"), "a.tif", {}),
        (np.uint16(65535 * (1 - RAMP)), "a.tif", {"tiffinfo": {262: 0}}),  # 0 is white.
        (np.float32(RAMP), "a.tif", {}),
    ],
)
def test_the_full_range_of_grey_is_that_of_8_bits(tmp_path, pixels, name, options):
    Image.fromarray(pixels).save(tmp_path / name, **options)
    np.testing.assert_array_equal(_read(tmp_path / name), SEVENTEENS)
    coloured = _read(tmp_path / name, grey=False)
    np.testing.assert_array_equal(coloured, np.repeat(SEVENTEENS[..., None], 3, 2))


def test_grey_of_12_bits_is_scaled_by_its_own_range(tmp_path):
    """A TIFF file by hand, since Pillow writes none: 8 tags, each one number."""
    values = np.uint16(4095 * RAMP).ravel()
    bits = "".join(f"{value:012b}" for value in values)
    strip = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    tags = {256: 4, 257: 4, 258: 12, 259: 1, 262: 1, 273: 110, 278: 4, 279: len(strip)}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)
    (tmp_path / "a.tif").write_bytes(header + strip)
    np.testing.assert_array_equal(_read(tmp_path / "a.tif"), SEVENTEENS)


@pytest.mark.parametrize(
    "pixels, fault",
    [
        (np.float32(2 * RAMP), "floating-point values are not all from 0 to 1"),
        (np.float32(RAMP - 0.1), "not all from 0 to 1"),
        (np.float32(np.where(RAMP > 0.5, np.nan, RAMP)), "not all from 0 to 1"),
        (np.int32(255 * RAMP), "its mode I has no known range"),
    ],
)
def test_values_of_no_known_range_are_refused(tmp_path, pixels, fault):
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"a.tif cannot be read as an image.*{fault}"):
        _read(tmp_path / "a.tif")


def _stroke(mode):
    """A black stroke on a ground that is transparent, and black as well."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    for x, alpha in enumerate((255, 128)):
        image.putpixel((x, 0), (0, 0, 0, alpha))
    if mode != "P":
        return image.convert(mode), {}
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 0, 0, 0, 127, 127, 127])
    palette.putpixel((0, 0), 1)
    palette.putpixel((1, 0), 2)
    return palette, {"transparency": 0}


@pytest.mark.parametrize(
    "mode, name",
    [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("P", "gif"), ("RGBA", "webp")]
    + [("RGBA", "tif"), ("LA", "tif")],
)
def test_transparent_parts_show_the_background(tmp_path, mode, name):
    image, options = _stroke(mode)
    if name == "webp":
        options = {"lossless": True, "exact": True}
    image.save(tmp_path / f"a.{name}", **options)
    expected = np.full((4, 4), 255)
    expected[0, :2] = 0, 127
    np.testing.assert_array_equal(_read(tmp_path / f"a.{name}"), expected)
    if mode != "P":
        over = _read(tmp_path / f"a.{name}", grey=False, background=(200, 100, 0))
        np.testing.assert_allclose(over[0, 1], [100, 50, 0], atol=1)
        np.testing.assert_array_equal(over[1, 1], [200, 100, 0])


def test_one_grey_value_may_be_transparent(tmp_path):
    pixels, expected = np.uint16(65535 * RAMP), SEVENTEENS.copy()
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=int(pixels[1, 2]))
    expected[1, 2] = 255
    np.testing.assert_array_equal(_read(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "16.png", "16.tif"])
def test_images_stand_upright(tmp_path, name):
    """EXIF says how the camera was held: by eight numbers, as its standard lists them."""
    upright = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[274] = orientation
        if name.startswith("16"):
            pixels = pixels * np.uint16(257)
        options = {"lossless": True} if name == "a.webp" else {}
        Image.fromarray(pixels).save(tmp_path / name, exif=exif, **options)
        np.testing.assert_array_equal(_read(tmp_path / name), upright)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr"])
def test_usual_modes_show_what_they_showed(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.tif")
    shown = _read(tmp_path / "a.tif", grey=False)
    np.testing.assert_array_equal(shown, np.asarray(image.convert("RGB")))


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (7, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (_read(tmp_path / "a.gif") == 7).all()


@pytest.mark.parametrize("form", ["JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_the_content_decides_whatever_the_name(tmp_path, form):
    Image.new("L", (8, 8), 99).save(tmp_path / "a.png", form)
    np.testing.assert_allclose(_read(tmp_path / "a.png"), 99, atol=1)


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
)


@pytest.mark.parametrize("form", ["EPS", "PPM", "ICO", "PCX", "TGA"])
def test_other_formats_are_refused_and_start_nothing(tmp_path, monkeypatch, form):
    def start(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", start)
    monkeypatch.setattr(subprocess, "Popen", start)
    content = io.BytesIO(POSTSCRIPT)
    if form != "EPS":
        Image.new("RGB", (16, 16)).save(content, form)
    (tmp_path / "1.png").write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="1.png cannot .*none of PNG, JPEG, GIF, BMP"):
        _read(tmp_path / "1.png")
    with pytest.raises(ValueError, match="none of PNG"):
        open_image(io.BytesIO(content.getvalue()))


@pytest.mark.parametrize("side", [8, 10_000, 14_000])
def test_small_files_of_very_many_pixels_are_refused_unread(
    tmp_path, monkeypatch, side
):
    """By our own bound, where Pillow would warn, and where it would refuse."""
    monkeypatch.setattr(images, "MAX_PIXELS", 63 if side == 8 else images.MAX_PIXELS)
    monkeypatch.setattr(Image.Image, "convert", None)
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    with warnings.catch_warnings(record=True) as caught:
        with pytest.raises(ValueError, match="large.png .*more than .* pixels"):
            _read(tmp_path / "large.png")
    assert not caught


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(ValueError, match="1.png is not a regular file"):
        _read(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="2.png is not a regular file"):
        _read(tmp_path / "2.png")
