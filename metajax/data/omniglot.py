"""Omniglot (Lake et al., 2015): 1623 characters, each drawn by 20 people."""

from collections.abc import Iterator
import io
import os
from typing import Literal
import zipfile

import numpy as np
from PIL import Image

from metajax.data import tfds_arrays
from metajax.data.class_arrays import ClassArrays, from_arrays
from metajax.data.class_lists import class_list
from metajax.data.images import open_image


def _drawings(path: str) -> Iterator[tuple[str, int, int, str]]:
    """Yields alphabet, number in it, label and member of each drawing in an archive."""
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            if member.endswith(".png"):
                _, alphabet, character, drawing = member.split("/")
                number = int(character.removeprefix("character")) - 1
                yield alphabet, number, int(drawing.partition("_")[0]) - 1, member


def _examples(split: str, path: str) -> Iterator[tuple[str, tfds_arrays.Record]]:
    del split  # Each has an archive of its own.
    with zipfile.ZipFile(path) as archive:
        for alphabet, number, label, member in _drawings(path):
            key = f"{alphabet}_{number}_{member.rpartition('/')[2]}"
            yield (
                key,
                {
                    "image": io.BytesIO(archive.read(member)),
                    "alphabet": alphabet,
                    "alphabet_char_id": number,
                    "label": label,
                },
            )


def _names(*paths: str) -> dict[str, list[str]]:
    drawings = [drawing for path in paths for drawing in _drawings(path)]
    labels = {label: f"{alphabet}_{n}" for alphabet, n, label, _ in drawings}
    return {
        "alphabet": sorted({alphabet for alphabet, *_ in drawings}),
        "label": [labels[label] for label in sorted(labels)],
    }


DATASET = tfds_arrays.Dataset(
    name="omniglot",
    version="3.0.0",
    builder="tensorflow_datasets.image_classification.omniglot:Omniglot",
    files={
        "train": ["images_background.zip"],
        "test": ["images_evaluation.zip"],
        "small1": ["images_background_small1.zip"],
        "small2": ["images_background_small2.zip"],
    },
    examples=_examples,
    names=_names,
    digests={"alphabet": "a5f5194fc5d53a07", "label": "38785c8cd813fc96"},
)


def omniglot(
    split: Literal["train", "validation", "test", "all"],
    *,
    classes: Literal["finn", "lake", "vinyals"] = "finn",
    resize: Literal["binary", "grey"] = "binary",
    size: int = 28,
    rotated_classes: bool = False,
    data_dir: str | os.PathLike | None = None,
) -> ClassArrays:
    """Omniglot's characters of one split; strokes are 255 on a background of 0.

    Args:
      split: which characters; "all" is for splits of your own, by `by_name`.
      classes: "finn" shuffles all 1623 characters, whatever their alphabet, into 1100,
        100 and 423, as Finn et al. (2017) do; "lake" tests on the 659 characters of
        Lake's evaluation alphabets, which training never meets, and shuffles his 964
        background characters into 864 and 100; "vinyals" takes the published lists of
        1028, 172 and 423, whose alphabets differ but for one.
      resize: "binary" takes the nearest pixel of the one-bit drawing, so that values
        stay 0 and 255; "grey" takes a Lanczos average.
      size: height and width of the images; the drawings have 105.
      rotated_classes: whether each character, turned by 0, 90, 180 and 270 degrees, makes
        four classes (Snell et al. 2017), named "Alphabet/character01/rot090".
      data_dir: of the TFDS data; see `tfds_arrays.find_data_dir`.

    Returns:
      The characters as classes of 20 images, `[examples, size, size, 1]`, uint8, named
      "Alphabet/character01".

    Raises:
      DataError: if the data is absent or damaged.
      ValueError: if an argument is not one of its choices.

    Example:
      >>> data = omniglot("test")  # doctest: +SKIP
      >>> data.num_classes, data.inputs.shape  # doctest: +SKIP
      (423, (8460, 28, 28, 1))

    Note: the numbers are those of Finn et al., the characters are not: the shuffle is
    our own. Their code asks for a Lanczos resize as well, but gets the nearest pixel,
    the only way in which PIL resizes one-bit images; "binary" is what they trained on.
    """
    if split not in ("train", "validation", "test", "all"):
        raise ValueError(f"omniglot has no split {split!r}: train, validation, test.")
    if classes not in ("finn", "lake", "vinyals") or resize not in ("binary", "grey"):
        raise ValueError(
            f"omniglot knows classes 'finn', 'lake', 'vinyals' and resize 'binary', "
            f"'grey'; got {classes!r} and {resize!r}."
        )
    arrays = tfds_arrays.load(
        DATASET,
        ("train", "test"),
        lambda record: {
            "image": _decode(record["image"], resize, size),
            "label": record["label"],
        },
        variant=f"{resize}{size}",
        data_dir=data_dir,
    )
    background, evaluation = arrays["train/label"], arrays["test/label"]
    images = np.concatenate([arrays["train/image"], arrays["test/image"]])
    labels = np.concatenate([background, evaluation])
    _check(images, labels, resize)
    names = [_class_name(name) for name in arrays["names/label"]]
    if classes == "vinyals" and split != "all":
        chosen = np.sort(
            [names.index(name) for name in class_list("omniglot_vinyals", split)]
        )
    else:
        parts = _split(np.unique(background), np.unique(evaluation), classes)
        chosen = parts[split]
    kept = np.isin(labels, chosen)
    images, labels = images[kept], np.searchsorted(chosen, labels[kept])
    names = [names[label] for label in chosen]
    if rotated_classes:
        images, labels, names = _rotate(images, labels, names)
    return from_arrays(images, labels, names)


def _rotate(images: np.ndarray, labels: np.ndarray, names: list[str]):
    """Four classes for each one, by the angle in degrees, counter-clockwise."""
    turned = [np.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
    return (
        np.concatenate(turned),
        np.concatenate([labels + turns * len(names) for turns in range(4)]),
        [f"{name}/rot{90 * turns:03}" for turns in range(4) for name in names],
    )


def _decode(png: bytes, resize: str, size: int) -> np.ndarray:
    """One drawing as [size, size, 1] with ink = 255, which is black, 0, in the file."""
    image = open_image(io.BytesIO(png)).convert("L")
    resampling = (
        Image.Resampling.LANCZOS if resize == "grey" else Image.Resampling.NEAREST
    )
    return 255 - np.asarray(image.resize((size, size), resampling))[..., None]


def _check(images: np.ndarray, labels: np.ndarray, resize: str) -> None:
    counts = np.bincount(labels, minlength=1623)
    if len(counts) != 1623 or (counts != 20).any():
        raise tfds_arrays.DataError(
            "Omniglot must have 20 drawings of each of 1623 characters: this data has "
            f"{counts.min()} to {counts.max()} of {len(counts)}; prepare it anew."
        )
    values = np.unique(images)
    if values[0] != 0 or values[-1] != 255 or (resize == "binary" and len(values) > 2):
        raise tfds_arrays.DataError(
            f"Omniglot's pixels are {values[0]} to {values[-1]}, {len(values)} values, "
            f"where 0 and 255 belong; prepare it anew."
        )


def _split(
    background: np.ndarray, evaluation: np.ndarray, classes: str
) -> dict[str, np.ndarray]:
    """The sorted labels of each split."""
    shuffle = np.random.RandomState(1).permutation  # NumPy has frozen this generator.
    everything = np.union1d(background, evaluation)
    if classes == "finn":
        parts = np.split(shuffle(everything), [1100, 1200])
    else:
        parts = [*np.split(shuffle(background), [864]), evaluation]
    splits = dict(
        zip(("train", "validation", "test"), map(np.sort, parts), strict=True)
    )
    return splits | {"all": everything}


def _class_name(name: str) -> str:
    """TFDS counts an alphabet's characters from 0, the original files from 1."""
    alphabet, _, number = name.rpartition("_")
    return f"{alphabet}/character{int(number) + 1:02}"
