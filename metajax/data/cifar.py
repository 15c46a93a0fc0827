"""CIFAR-100 (Krizhevsky, 2009) as few-shot learning splits it: CIFAR-FS and FC100."""

from collections.abc import Iterator
import io
import os
import tarfile
from typing import Literal

import numpy as np

from metajax.data import tfds_arrays
from metajax.data.class_arrays import ClassArrays, by_name, from_arrays
from metajax.data.class_lists import class_list
from metajax.data.images import open_image


def _member(path: str, name: str) -> bytes:
    with tarfile.open(path) as archive:
        file = archive.extractfile(f"cifar-100-binary/{name}")
        if file is None:
            raise ValueError(f"{path}: {name} is no file.")
        return file.read()


def _examples(split: str, path: str) -> Iterator[tuple[int, tfds_arrays.Record]]:
    """Images lie one after another: two bytes of labels, then red, green and blue."""
    rows = np.frombuffer(_member(path, f"{split}.bin"), np.uint8).reshape(-1, 3074)
    for index, row in enumerate(rows):
        pixels = row[2:].reshape(3, 32, 32).transpose(1, 2, 0)
        yield (
            index,
            {
                "id": f"{split}_{index:05}",
                "image": tfds_arrays.as_png(pixels),
                "coarse_label": int(row[0]),
                "label": int(row[1]),
            },
        )


def _names(path: str) -> dict[str, list[str]]:
    return {
        label: _member(path, f"{file}_label_names.txt").decode().split()
        for label, file in (("coarse_label", "coarse"), ("label", "fine"))
    }


DATASET = tfds_arrays.Dataset(
    name="cifar100",
    version="3.0.2",
    builder="tensorflow_datasets.image_classification.cifar:Cifar100",
    files={
        "train": ["cifar-100-binary.tar.gz"],
        "test": ["cifar-100-binary.tar.gz"],
    },
    examples=_examples,
    names=_names,
    digests={"coarse_label": "9b48b836d98e8782", "label": "fbe8ad23bbaf2496"},
)


def cifar_fs(
    split: Literal["train", "validation", "test"],
    *,
    data_dir: str | os.PathLike | None = None,
) -> ClassArrays:
    """CIFAR-FS: the 100 classes of CIFAR-100, dealt at random into 64, 16 and 20.

    Args:
      split: which classes.
      data_dir: of the TFDS data; see `tfds_arrays.find_data_dir`.

    Returns:
      Classes of 600 images, `[examples, 32, 32, 3]`, uint8: CIFAR-100's training and
      test images of a class together.

    Raises:
      DataError: if the data is absent or damaged.
      ValueError: if there is no such split.

    Example:
      >>> data = cifar_fs("test")  # doctest: +SKIP
      >>> data.num_classes, data.inputs.shape  # doctest: +SKIP
      (20, (12000, 32, 32, 3))

    Source:
      Bertinetto et al. 2019 (arXiv 1805.08136), section 4.1.
    """
    return _few_shot("cifar_fs", split, data_dir)


def fc100(
    split: Literal["train", "validation", "test"],
    *,
    data_dir: str | os.PathLike | None = None,
) -> ClassArrays:
    """FC100: CIFAR-100's 20 superclasses, dealt into 60, 20 and 20 classes.

    No superclass is in two splits, so that test classes look less like training ones
    than those of `cifar_fs`.

    Args:
      split: which classes.
      data_dir: of the TFDS data; see `tfds_arrays.find_data_dir`.

    Returns:
      Classes as from `cifar_fs`.

    Raises:
      DataError: if the data is absent or damaged.
      ValueError: if there is no such split.

    Example:
      >>> data = fc100("train")  # doctest: +SKIP
      >>> data.num_classes, data.inputs.shape  # doctest: +SKIP
      (60, (36000, 32, 32, 3))

    Source:
      Oreshkin et al. 2018 (arXiv 1805.10123), section 4.1.
    """
    return _few_shot("fc100", split, data_dir)


def _few_shot(name: str, split: str, data_dir: str | os.PathLike | None) -> ClassArrays:
    chosen = class_list(name, split)
    arrays = tfds_arrays.load(
        DATASET, ("train", "test"), _decode, variant="32", data_dir=data_dir
    )
    images, labels = (
        np.concatenate([arrays[f"train/{feature}"], arrays[f"test/{feature}"]])
        for feature in ("image", "label")
    )
    names = arrays["names/label"].tolist()
    _check(images, labels, names)
    kept = np.isin(labels, [names.index(name) for name in chosen])
    labels = np.array(names)[labels[kept]]
    return by_name(from_arrays(images[kept], labels), chosen)


def _decode(record: tfds_arrays.Record) -> tfds_arrays.Record:
    image = open_image(io.BytesIO(record["image"])).convert("RGB")
    return {"image": np.asarray(image), "label": record["label"]}


def _check(images: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    counts = np.bincount(labels, minlength=100)
    if (
        (len(counts), len(set(names))) != (100, 100)
        or (counts != 600).any()
        or images.shape[1:] != (32, 32, 3)
        or (images.min(), images.max()) != (0, 255)
    ):
        raise tfds_arrays.DataError(
            "CIFAR-100 must have 600 images of 32 x 32 x 3 from 0 to 255 of each of 100 "
            f"classes: this data has {counts.min()} to {counts.max()} of {len(counts)}, "
            f"{images.shape[1:]} from {images.min()} to {images.max()}; prepare it anew."
        )
