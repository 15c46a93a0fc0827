"""Weights that packages ship: found, checked, and never code that is run."""

import hashlib
from importlib.util import find_spec
from pathlib import Path


def shipped(package: str, file: str, install: str) -> Path:
    """A file that an installed package ships; the package is not imported.

    Args:
      package: the package's name, as it is imported.
      file: where the file is in it.
      install: what installs it.

    Returns:
      Its path.

    Raises:
      ImportError: if there is no such package; it says what to install.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"This encoder needs weights: {install}.")
    return Path(found.submodule_search_locations[0]) / file


def read_bytes(path: Path, sha256: str) -> bytes:
    """The content of a file, which must be the one that is meant.

    Raises:
      ValueError: if it is another, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is damaged or of another version: its SHA-256 is {found[:16]}..., "
            f"where {sha256[:16]}... is meant; install its package anew."
        )
    return content
