"""Your own data: a folder of images, or an npz file of arrays."""

import collections
from collections.abc import Iterator
import os
from pathlib import Path
import zipfile

from absl import logging
import numpy as np

from metajax.data.class_arrays import ClassArrays, from_arrays
from metajax.data.files import check_regular
from metajax.data.images import as_colour, read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def from_folder(
    path: str | Path, *, size: int, grey: bool = False, background: str = "white"
) -> ClassArrays:
    """Images from a folder of folders: a class is a folder that holds images.

    It is named by its path, "alphabet/character" where classes lie in groups. Folders
    within a class belong to it; hidden files and folders, whose names begin with a dot,
    are passed over. Images are read as they are seen: upright, grey of 16 bits scaled
    to 8, transparent parts laid over the background; of an animation the first frame.

    Args:
      path: the folder of class folders.
      size: images are resized to `size` by `size` pixels.
      grey: whether to read one channel instead of three.
      background: a colour, as "white", "black" or "#808080".

    Returns:
      The images as uint8 `[examples, size, size, channels]`, by class.

    Raises:
      ValueError: if there is no class folder, one has no image, classes are divided
        into training and test already, a file is not an image, or the colour is unknown.
    """
    colour = as_colour(background)
    root = Path(path)
    classes = class_folders(root)
    images = [
        read_image(file, size, grey=grey, background=colour)
        for files in classes.values()
        for file in files
    ]
    labels = np.repeat(np.arange(len(classes)), list(map(len, classes.values())))
    names = [folder.relative_to(root).as_posix() for folder in classes]
    return from_arrays(np.stack(images), labels, names)


def class_folders(root: Path) -> dict[Path, list[Path]]:
    """The images of each class folder, in the order of their paths; see `from_folder`."""
    found = _class_folders(root) if root.is_dir() else {}
    if not found:
        raise ValueError(
            f"{root} has no class folders: put the images of each class in a folder of "
            "its own there."
        )
    return found


def images_below(root: Path) -> list[Path]:
    """All images in a folder and those below it, in the order of their paths.

    Raises:
      ValueError: if there is none.
    """
    found = [
        file
        for _, files in (_folders(root) if root.is_dir() else ())
        for file in files
        if file.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise ValueError(f"{root} has no image {SUFFIXES}.")
    return sorted(found)


def _class_folders(root: Path) -> dict[Path, list[Path]]:
    classes, owners, others = {}, {}, []
    for folder, files in _folders(root):
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        others += [file for file in files if file.suffix.lower() not in SUFFIXES]
        # The class folder that this one is, or is within.
        owner = owners.get(folder.parent) or (images and folder != root and folder)
        owners[folder] = owner or None
        if owner:
            classes.setdefault(owner, []).extend(images)
            if images and owner != folder:
                logging.warning("Images in %s are taken for class %s.", folder, owner)
        else:
            others += images
    needed = {root, *(parent for folder in classes for parent in folder.parents)}
    for folder, owner in owners.items():
        if not owner and folder not in needed:
            raise ValueError(f"Class folder {folder} has no image {SUFFIXES}.")
    if others:
        kinds = collections.Counter(file.suffix or file.name for file in others)
        logging.warning(
            "%d files in %s are left out, being no %s in a class folder: %s.",
            *(len(others), root, ", ".join(SUFFIXES)),
            ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
        )
    return {folder: sorted(files) for folder, files in sorted(classes.items())}


def _folders(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A folder and all below it, each with its files, without what is hidden."""
    seen = set()
    for path, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(path)
        if real in seen:
            raise ValueError(
                f"{path} leads to images that are there already: remove it."
            )
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        parts = sorted(name for name in subfolders if name.lower() in _PARTS)
        if len(parts) > 1:
            raise ValueError(
                f"{path} is divided into {', '.join(parts)}: name one of them as the "
                "folder, or put the folders of all classes side by side."
            )
        yield (
            Path(path),
            [Path(path, name) for name in files if not name.startswith(".")],
        )


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be read: {error.strerror}.") from error


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
    check_regular(path)
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
