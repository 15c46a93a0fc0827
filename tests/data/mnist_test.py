import numpy as np
import pytest

from metajax.data.mnist import mnist


@pytest.fixture(scope="module")
def parts(data_dir):
    return {
        split: mnist(split, data_dir=data_dir)
        for split in ("train", "validation", "test")
    }


def flat(data):
    """Images [examples, pixels] and labels [examples], class by class."""
    labels = np.repeat(np.arange(10), data.counts)
    rows = np.concatenate([r[:n] for r, n in zip(data.rows, data.counts)])
    return np.asarray(data.inputs, np.float32).reshape(-1, 784)[rows], labels


def test_counts(parts):
    totals = {split: part.counts.sum() for split, part in parts.items()}
    assert totals == {"train": 55000, "validation": 5000, "test": 10000}
    digits = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert parts["test"].counts.tolist() == digits
    digits = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    both = parts["train"].counts + parts["validation"].counts
    assert both.tolist() == digits


def test_images(parts):
    for split, part in parts.items():
        images = np.asarray(part.inputs)
        assert part.names == tuple("0123456789")
        assert images.shape == (part.counts.sum(), 28, 28, 1), split
        assert images.dtype == np.uint8
        assert (images.min(), images.max()) == (0, 255)
        assert 0.1 < images.mean() / 255 < 0.16


def test_validation_images_are_not_trained_on(parts):
    seen = {image.tobytes() for image in np.asarray(parts["train"].inputs)}
    held_out = np.asarray(parts["validation"].inputs)
    assert not any(image.tobytes() in seen for image in held_out)


def test_labels_agree_with_images(parts):
    images, labels = flat(parts["train"])
    means = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    images, labels = flat(parts["test"])
    distances = (means**2).sum(axis=1) - 2 * images @ means.T
    assert (distances.argmin(axis=1) == labels).mean() > 0.7


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="valid"):
        mnist("valid", data_dir=tmp_path)
