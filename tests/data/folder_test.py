"""One's own data comes in as it lies on disk, or is refused by the name of the file."""

import os
import re

import numpy as np
from PIL import Image
import pytest

from metajax.data.folder import from_folder, from_npz


def _save(path, colour, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes, of which one has folders of its own, and other files about."""
    root = tmp_path / "data"
    _save(root / "zebra" / "2.png", (30, 60, 90))
    _save(root / "zebra" / "1.PNG", (10, 20, 30))
    _save(root / "zebra" / "deeper" / "0.bmp", (1, 2, 3))
    _save(root / "ant" / "only.png", 200, mode="L")
    (root / "zebra" / "notes.txt").write_text("not an image")
    (root / "README").write_text("not a class")
    return root


def test_folders_are_classes_in_the_order_of_their_names(root):
    data = from_folder(root, size=5)
    assert data.names == ("ant", "zebra") and data.counts.tolist() == [1, 3]
    assert data.inputs.dtype == np.uint8 and data.inputs.shape == (4, 5, 5, 3)
    zebras = np.asarray(data.inputs)[data.rows[1]]
    colours = [[10, 20, 30], [30, 60, 90], [1, 2, 3]]  # By path: 1.PNG, 2.png, deeper/.
    expected = np.broadcast_to(np.reshape(colours, (3, 1, 1, 3)), (3, 5, 5, 3))
    np.testing.assert_array_equal(zebras, expected)
    np.testing.assert_array_equal(np.asarray(data.inputs)[data.rows[0, 0]], 200)


def test_grey_images_have_one_channel(root):
    data = from_folder(str(root), size=5, grey=True)
    assert data.inputs.shape == (4, 5, 5, 1)
    first_zebra = np.asarray(data.inputs)[data.rows[1, 0]]
    luma = round(0.299 * 10 + 0.587 * 20 + 0.114 * 30)
    np.testing.assert_array_equal(first_zebra, luma)


def test_images_of_the_right_size_keep_their_pixels_and_orientation(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    (tmp_path / "class").mkdir()
    Image.fromarray(pixels).save(tmp_path / "class" / "a.png")
    data = from_folder(tmp_path, size=8)
    np.testing.assert_array_equal(data.inputs[0], pixels)


def test_other_images_are_resized_without_being_turned(tmp_path):
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:10, 20:] = 255  # The upper right quarter.
    (tmp_path / "class").mkdir()
    Image.fromarray(pixels).save(tmp_path / "class" / "a.png")
    image = np.asarray(from_folder(tmp_path, size=10, grey=True).inputs[0, :, :, 0])
    expected = np.zeros((2, 2))
    expected[0, 1] = 255
    np.testing.assert_array_equal(image[[1, 8]][:, [1, 8]], expected)


@pytest.mark.parametrize("make", [True, False])
def test_a_root_without_class_folders_is_refused(tmp_path, make):
    root = tmp_path / "nothing"
    if make:
        root.mkdir()
        (root / "image.png").write_bytes(b"")
    with pytest.raises(ValueError, match="nothing has no class folders"):
        from_folder(root, size=4)


def test_a_class_without_images_is_refused_by_name(root):
    (root / "bear").mkdir()
    (root / "bear" / "notes.txt").write_text("none yet")
    with pytest.raises(ValueError, match="bear has no image .*png"):
        from_folder(root, size=4)


def _names(root, **options):
    data = from_folder(root, size=2, grey=True, **options)
    return dict(zip(data.names, data.counts.tolist()))


def test_classes_in_groups_are_named_by_their_paths(tmp_path):
    expected = {"Greek/alpha": 2, "Greek/beta": 1, "Latin/alpha": 3}
    for path, count in expected.items():
        for i in range(count):
            _save(tmp_path / "top" / path / f"{i}.png", 0)
    assert _names(tmp_path / "top") == expected
    groups = from_folder(tmp_path / "top", size=2).groups
    assert groups == ("Greek", "Greek", "Latin")
    # One more folder on top is one more part of the names.
    assert _names(tmp_path) == {f"top/{name}": n for name, n in expected.items()}


def test_names_are_in_one_spelling(tmp_path):
    _save(tmp_path / "cafe\u0301" / "1.png", 0)  # As some file systems store it.
    assert _names(tmp_path) == {"caf\u00e9": 1}


def test_what_is_hidden_is_nowhere(root):
    before = _names(root)
    for path in (".git/a", "zebra/.ipynb_checkpoints", "zebra/deeper/.thumbnails"):
        _save(root / path / "1.png", 0)
    _save(root / "ant" / "._only.png", 0)
    assert _names(root) == before == {"ant": 1, "zebra": 3}


def test_what_is_left_out_is_said(root, caplog):
    for name in ("3.heic", "4.HEIC", "5.jfif", ".hidden"):
        (root / "zebra" / name).write_bytes(b"")
    _save(root / "preview.png", 0)
    assert _names(root) == {"ant": 1, "zebra": 3}
    nested, left = [record.getMessage() for record in caplog.records]
    assert nested.endswith(f"{root}/zebra/deeper are taken for class {root}/zebra.")
    assert f"6 files in {root} are left out" in left
    kinds = {".heic 1", ".HEIC 1", ".jfif 1", ".txt 1", "README 1", ".png 1"}
    assert set(left.partition("folder: ")[2].rstrip(".").split(", ")) == kinds


@pytest.mark.parametrize("parts", ["train val test", "Training Testing", "dev test"])
@pytest.mark.parametrize("above", ["", "images"])
def test_classes_that_are_divided_already_are_refused(tmp_path, parts, above):
    for part in parts.split():
        _save(tmp_path / above / part / "cat" / "1.png", 0)
    place = re.escape(str(tmp_path / above))
    message = f"{place} is divided into {', '.join(sorted(parts.split()))}: name one"
    with pytest.raises(ValueError, match=message):
        _names(tmp_path)
    part = parts.split()[0]
    assert _names(tmp_path / above / part) == {"cat": 1}


def test_a_class_may_be_called_test(tmp_path):
    for name in ("test", "essay"):
        _save(tmp_path / name / "1.png", 0)
    assert _names(tmp_path) == {"essay": 1, "test": 1}


def test_linked_classes_are_read_once(tmp_path):
    _save(tmp_path / "store" / "cat" / "1.png", 0)
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "store" / "cat")
    assert _names(root) == {"cat": 1}
    (root / "dog").symlink_to(tmp_path / "store" / "cat")
    with pytest.raises(ValueError, match="leads to images that are there already"):
        _names(root)
    (root / "dog").unlink()
    (tmp_path / "store" / "cat" / "loop").symlink_to(tmp_path / "store" / "cat")
    with pytest.raises(ValueError, match="loop leads to images that are there already"):
        _names(root)


def test_transparent_parts_show_the_background_that_is_named(tmp_path):
    _save(tmp_path / "class" / "a.png", (0, 0, 0, 0), mode="RGBA")
    for background, value in (("white", 255), ("#808080", 128), ("black", 0)):
        data = from_folder(tmp_path, size=2, background=background)
        assert (np.asarray(data.inputs) == value).all()
    assert (np.asarray(from_folder(tmp_path, size=2).inputs) == 255).all()
    with pytest.raises(ValueError, match="background must be a colour.*got 'whitish'"):
        from_folder(tmp_path, size=2, background="whitish")


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_broken_image_is_refused_by_name(root, content):
    broken = root / "ant" / "broken.png"
    if content == "truncated":
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(broken)
        content = broken.read_bytes()[:2000]
    broken.write_bytes(content)
    with pytest.raises(ValueError, match="broken.png cannot be read as an image"):
        from_folder(root, size=4)


def test_npz_arrays_are_those_that_were_saved(tmp_path):
    inputs, labels = np.arange(8, dtype=np.uint8).reshape(4, 2), [1, 0, 1, 1]
    np.savez(tmp_path / "plain.npz", inputs=inputs, labels=labels)
    np.savez(tmp_path / "named.npz", inputs=inputs, labels=labels, names=["x", "y"])
    np.savez(tmp_path / "words.npz", inputs=inputs, labels=["b", "a", "b", "b"])
    expected_names = {"plain": ("0", "1"), "named": ("x", "y"), "words": ("a", "b")}
    for file, names in expected_names.items():
        data = from_npz(tmp_path / f"{file}.npz")
        assert data.names == names and data.counts.tolist() == [1, 3]
        assert data.rows[1].tolist() == [0, 2, 3]
        np.testing.assert_array_equal(data.inputs, inputs)
        assert data.inputs.dtype == np.uint8


@pytest.mark.parametrize("missing", ["inputs", "labels"])
def test_an_npz_file_that_lacks_an_array_is_refused_by_its_name(tmp_path, missing):
    arrays = {"inputs": np.zeros((2, 3)), "labels": np.array([0, 1])}
    del arrays[missing]
    np.savez(tmp_path / "data.npz", **arrays)
    message = f"data.npz must be an npz file with arrays.*: .*{missing}"
    with pytest.raises(ValueError, match=message):
        from_npz(tmp_path / "data.npz")


def test_a_file_that_is_not_there_or_no_npz_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="gone.npz must be an npz file"):
        from_npz(tmp_path / "gone.npz")
    np.save(tmp_path / "array.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match="array.npy must be an npz file"):
        from_npz(tmp_path / "array.npy")


def test_arrays_that_make_no_classes_are_refused_as_from_arrays_does(tmp_path):
    np.savez(tmp_path / "data.npz", inputs=np.full((2, 1), np.nan), labels=[0, 1])
    with pytest.raises(ValueError, match="NaN"):
        from_npz(tmp_path / "data.npz")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(ValueError, match="data.npz is not a regular file"):
        from_npz(tmp_path / "data.npz")
