"""Raw examples are read as training has read its own, or refused by their number."""

import io

import numpy as np
from PIL import Image
import pytest

import metajax as mj
from metajax.data.omniglot import _decode

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def test_files_open_images_and_arrays_are_the_same(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    read = mj.data.image_reader(8)
    found = read([path, str(path), Image.open(path), PIXELS])
    np.testing.assert_array_equal(found, np.stack([PIXELS] * 4))
    assert found.dtype == np.uint8
    mixed = read([PIXELS, PIXELS / 255])
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed[0], mixed[1], rtol=1e-6)


def test_images_are_read_as_a_folder_of_classes_is(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        image = Image.fromarray(RANDOM.integers(0, 256, (30, 20, 4), dtype=np.uint8))
        image.save(tmp_path / name / "1.png")
    data = mj.data.from_folder(tmp_path, size=9, background="red")
    read = mj.data.image_reader(9, background="red")
    files = [tmp_path / name / "1.png" for name in data.names]
    np.testing.assert_array_equal(read(files), data.inputs)


@pytest.mark.parametrize("resize, how", [("binary", "nearest"), ("grey", "lanczos")])
def test_drawings_are_read_as_those_of_omniglot(resize, how, tmp_path):
    drawing = Image.fromarray(RANDOM.random((105, 105)) > 0.5)
    drawing.save(tmp_path / "a.png")
    file = io.BytesIO()
    drawing.save(file, "PNG")
    expected = _decode(file.getvalue(), resize, 28)
    read = mj.data.image_reader(28, grey=True, resample=how, inverted=True)
    np.testing.assert_array_equal(read([tmp_path / "a.png"])[0], expected)
    np.testing.assert_array_equal(read([drawing])[0], expected)
    np.testing.assert_array_equal(read([expected[..., 0]])[0], expected)  # As it is.


def test_texts_are_read_as_training_texts(caplog):
    texts = ["Play it again", "what is this"]
    encode = mj.data.words(64)
    data = mj.data.from_texts(texts, [0, 1], encode=encode, length=4)
    read = mj.data.text_reader(encode, 4)
    np.testing.assert_array_equal(read(texts), data.inputs)
    assert read(["one two three four five"]).shape == (1, 4)
    assert "were cut" in caplog.text


def test_arrays_keep_their_kind():
    assert mj.data.array_reader((2,), "int32")([[1, 2]]).dtype == np.int32
    assert mj.data.array_reader((2,), "float32")(np.eye(2)).dtype == np.float32
    pixels = mj.data.array_reader((2,), "uint8")
    assert pixels(np.array([[3, 255]], np.uint8)).dtype == np.uint8
    assert pixels(np.array([[0.5, 1.0]])).dtype == np.float32


IMAGE, GREY = mj.data.image_reader(8), mj.data.image_reader(8, grey=True)
TEXT = mj.data.text_reader(mj.data.words(64), 4)


@pytest.mark.parametrize(
    "read, examples, message",
    [
        (IMAGE, [PIXELS, 255.0 * PIXELS], "Image 1 is float.* make it uint8"),
        (IMAGE, [PIXELS[:5]], r"Image 0 is \[5, 8, 3\].* must be \[8, 8, 3\]"),
        (GREY, [PIXELS], r"must be \[8, 8, 1\]"),
        (IMAGE, [PIXELS - 300.0], "from -"),
        (IMAGE, [np.full((8, 8, 3), np.nan)], "from nan"),
        (IMAGE, [3], "Image 0 must be a path.*got a int"),
        (IMAGE, ["nowhere.png"], "nowhere.png cannot be read"),
        (IMAGE, "a.png", "several images.*got str"),
        (IMAGE, [], "no images"),
        (TEXT, ["fine", "?!"], "text 1, '\\?!', has no token"),
        (TEXT, ["fine", 3], "text 1 is 3"),
        (TEXT, "fine", "several texts"),
        (mj.data.array_reader((2,), "float32"), np.eye(3), r"\[examples, 2\]"),
        (mj.data.array_reader((2,), "float32"), [[1, np.inf]], "NaN or infinite"),
        (mj.data.array_reader((2,), "int32"), [[1.5, 2]], "must be integers"),
        (mj.data.array_reader((2,), "uint8"), [[0, 255]], "from 0 to 255: make it"),
        (mj.data.array_reader((2,), "float32"), [["a", "b"]], "must be numbers"),
    ],
)
def test_what_does_not_fit_is_named(read, examples, message):
    with pytest.raises(ValueError, match=message):
        read(examples)
