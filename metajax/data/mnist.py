"""MNIST (LeCun et al., 1998): handwritten digits."""

from collections.abc import Iterator
import gzip
import io
import os
from typing import Literal

import numpy as np

from metajax.data import tfds_arrays
from metajax.data.class_arrays import ClassArrays, from_arrays
from metajax.data.images import open_image


def _examples(
    split: str, images: str, labels: str
) -> Iterator[tuple[int, tfds_arrays.Record]]:
    del split  # Each has files of its own.
    with gzip.open(images) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(labels) as file:
        digits = np.frombuffer(file.read(), np.uint8, offset=8)
    for index, (image, digit) in enumerate(zip(pixels, digits, strict=True)):
        yield index, {"image": tfds_arrays.as_png(image), "label": int(digit)}


DATASET = tfds_arrays.Dataset(
    name="mnist",
    version="3.0.1",
    builder="tensorflow_datasets.image_classification.mnist:MNIST",
    files={
        "train": ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"],
        "test": ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"],
    },
    examples=_examples,
)


def mnist(
    split: Literal["train", "validation", "test"],
    *,
    data_dir: str | os.PathLike | None = None,
) -> ClassArrays:
    """MNIST's digits of one split; ink is 255 on a background of 0.

    Args:
      split: "train" is the first 55000 of MNIST's training images, "validation" the
        last 5000 of them, "test" its 10000 test images.
      data_dir: of the TFDS data; see `tfds_arrays.find_data_dir`.

    Returns:
      The digits as ten classes of images, `[examples, 28, 28, 1]`, uint8.

    Raises:
      DataError: if the data is absent or damaged.
      ValueError: if there is no such split.

    Example:
      >>> data = mnist("test")  # doctest: +SKIP
      >>> data.names[:3], data.inputs.shape  # doctest: +SKIP
      (('0', '1', '2'), (10000, 28, 28, 1))

    Note: first and last are meant in the order of TFDS, which shuffles the images.
    """
    parts = {
        "train": ("train", slice(55000)),
        "validation": ("train", slice(55000, None)),
        "test": ("test", slice(None)),
    }
    if split not in parts:
        raise ValueError(f"mnist has no split {split!r}: train, validation or test.")
    arrays = tfds_arrays.load(
        DATASET, ("train", "test"), _decode, variant="28", data_dir=data_dir
    )
    source, part = parts[split]
    images, labels = arrays[f"{source}/image"], arrays[f"{source}/label"]
    count = {"train": 60000, "test": 10000}[source]
    if images.shape != (count, 28, 28, 1) or (images.min(), images.max()) != (0, 255):
        raise tfds_arrays.DataError(
            f"MNIST's {source} images must be {count} of 28 x 28 from 0 to 255: these "
            f"are {images.shape}, {images.min()} to {images.max()}; prepare it anew."
        )
    return from_arrays(images[part], labels[part], list(arrays["names/label"]))


def _decode(record: tfds_arrays.Record) -> tfds_arrays.Record:
    image = open_image(io.BytesIO(record["image"])).convert("L")
    return {"image": np.asarray(image)[..., None], "label": record["label"]}
