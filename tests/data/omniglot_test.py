import hashlib
import io
import zipfile

import numpy as np
from PIL import Image
import pytest

from metajax.data.omniglot import _decode, omniglot

SIZES = {
    "finn": {"train": 1100, "validation": 100, "test": 423},
    "lake": {"train": 864, "validation": 100, "test": 659},
    "vinyals": {"train": 1028, "validation": 172, "test": 423},
}
# Of the names of train, validation and test: results are comparable while these stay.
DIGESTS = {
    "finn": "99c1b612dc10fdb1",
    "lake": "d6f8333652dac8fa",
    "vinyals": "edf9082ac73bff6e",
}


def alphabets(data):
    return {name.partition("/")[0] for name in data.names}


@pytest.mark.parametrize("classes", SIZES)
def test_splits(data_dir, classes):
    parts = {
        split: omniglot(split, classes=classes, data_dir=data_dir)
        for split in SIZES[classes]
    }
    sizes = {split: part.num_classes for split, part in parts.items()}
    assert sizes == SIZES[classes]
    names = [name for part in parts.values() for name in part.names]
    assert len(set(names)) == 1623
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest[:16] == DIGESTS[classes]
    for part in parts.values():
        assert (part.counts == 20).all()
        assert part.inputs.shape == (20 * part.num_classes, 28, 28, 1)
        assert part.inputs.dtype == np.uint8
    shared = alphabets(parts["train"]) & alphabets(parts["test"])
    assert len(shared) == {"finn": 50, "lake": 0, "vinyals": 1}[classes]


def test_rotations_are_classes(data_dir):
    plain = omniglot("validation", classes="vinyals", data_dir=data_dir)
    turned = omniglot(
        "validation", classes="vinyals", rotated_classes=True, data_dir=data_dir
    )
    assert turned.num_classes == 4 * plain.num_classes == 688
    assert (turned.counts == 20).all() and len(set(turned.names)) == 688
    for turns in range(4):
        name = f"{plain.names[7]}/rot{90 * turns:03}"
        index = turned.names.index(name)
        expected = np.rot90(plain.inputs[plain.rows[7]], turns, axes=(1, 2))
        np.testing.assert_array_equal(turned.inputs[turned.rows[index]], expected)


def test_all(data_dir):
    data = omniglot("all", data_dir=data_dir)
    assert data.num_classes == 1623
    assert len(alphabets(data)) == 50
    assert {"Greek/character01", "Greek/character24"} <= set(data.names)
    assert "Greek/character25" not in data.names


def test_binary_strokes_are_bright(data_dir):
    images = np.asarray(omniglot("validation", data_dir=data_dir).inputs)
    assert np.unique(images).tolist() == [0, 255]
    assert 0.05 < (images == 255).mean() < 0.12
    ink = (images == 255).mean(axis=(1, 2, 3))
    assert 0 < ink.min() and ink.max() < 0.4


def test_grey_is_averaged(data_dir):
    binary = omniglot("validation", data_dir=data_dir)
    grey = omniglot("validation", resize="grey", data_dir=data_dir)
    assert grey.inputs.shape == (2000, 28, 28, 1)
    assert grey.names == binary.names
    assert grey.inputs.dtype == np.uint8
    assert len(np.unique(grey.inputs)) > 200
    ink = [np.asarray(data.inputs).mean(axis=(1, 2, 3)) for data in (binary, grey)]
    assert np.corrcoef(ink)[0, 1] > 0.9
    # Not equal: what Lanczos undershoots at the edges of strokes is cut off at 0.
    np.testing.assert_allclose(ink[0].mean(), ink[1].mean(), rtol=0.15)


def test_images_are_those_of_the_named_folder(data_dir, archives):
    data = omniglot("all", data_dir=data_dir)
    inputs = np.asarray(data.inputs)
    with zipfile.ZipFile(archives / "images_background_small1.zip") as archive:
        members = [name for name in archive.namelist() if name.endswith(".png")]
        for member in members[::97]:
            image = Image.open(io.BytesIO(archive.read(member)))
            assert image.mode == "1"
            small = _decode(archive.read(member), "grey", size=20)
            assert small.shape == (20, 20, 1) and small.max() > 50
            # What Finn's code does: PIL takes the nearest pixel of a one-bit image.
            image = image.resize((28, 28), Image.Resampling.LANCZOS)
            drawing = 255 * (1 - np.asarray(image, np.uint8))
            row = data.rows[data.names.index("/".join(member.split("/")[1:3]))]
            equal = (inputs[row, :, :, 0] == drawing).all(axis=(1, 2))
            assert equal.any(), member


def test_classes_look_alike(data_dir):
    data = omniglot("test", classes="lake", resize="grey", data_dir=data_dir)
    images = np.asarray(data.inputs, np.float32).reshape(len(data.inputs), -1)
    images = images[data.rows[::33]]  # [20 classes, 20 drawings, pixels]
    means, queries = images[:, :10].mean(axis=1), images[:, 10:]
    distances = ((queries[:, :, None] - means) ** 2).sum(axis=-1)
    right = distances.argmin(axis=-1) == np.arange(len(means))[:, None]
    assert right.mean() > 0.3  # Chance is 0.05.


@pytest.mark.parametrize(
    "wrong", [{"split": "valid"}, {"classes": "snell"}, {"resize": "bilinear"}]
)
def test_unknown_choice(wrong, tmp_path):
    arguments = {"split": "train", "data_dir": tmp_path} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        omniglot(**arguments)
