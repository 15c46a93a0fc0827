"""Your own data: a folder of images, or an npz file of arrays."""

from pathlib import Path
import zipfile

import numpy as np
from PIL import Image

from metajax.data.class_arrays import ClassArrays, from_arrays

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def from_folder(path: str | Path, *, size: int, grey: bool = False) -> ClassArrays:
    """Images from a folder that has one folder a class, named as the class is.

    Args:
      path: the folder of class folders.
      size: images are resized to `size` by `size` pixels.
      grey: whether to read one channel instead of three.

    Returns:
      The images as uint8 `[examples, size, size, channels]`, by class.

    Raises:
      ValueError: if there is no class folder, a class has no image, or a file is not an
        image.
    """
    root = Path(path)
    entries = sorted(root.iterdir()) if root.is_dir() else []
    folders = [f for f in entries if f.is_dir() and not f.name.startswith(".")]
    if not folders:
        raise ValueError(
            f"{root} has no class folders: put the images of each class in a folder of "
            "its own there."
        )
    images, labels = [], []
    for label, folder in enumerate(folders):
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"Class folder {folder} has no image {SUFFIXES}.")
        images += [_read(file, size, grey) for file in files]
        labels += [label] * len(files)
    return from_arrays(np.stack(images), labels, [folder.name for folder in folders])


def _read(file: Path, size: int, grey: bool) -> np.ndarray:
    try:
        with Image.open(file) as image:
            image = image.convert("L" if grey else "RGB").resize((size, size))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file} cannot be read as an image; remove or replace it."
        ) from error
    return np.asarray(image).reshape(size, size, -1)


def from_npz(path: str | Path) -> ClassArrays:
    """Examples from an npz file with arrays `inputs` and `labels`, and maybe `names`.

    Args:
      path: a file as `numpy.savez(path, inputs=..., labels=...)` writes it; see
        `from_arrays` for the arrays.

    Returns:
      The examples by class.

    Raises:
      ValueError: if the file is not there or lacks an array.
    """
    try:
        with np.load(path) as file:
            names = file["names"] if "names" in file else None
            return from_arrays(file["inputs"], file["labels"], names)
    except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must be an npz file with arrays inputs and labels: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
