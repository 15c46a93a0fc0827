"""Arrays that took a while to decode, kept in the user's cache directory."""

from collections.abc import Callable
import contextlib
import os
from pathlib import Path

from absl import logging
import numpy as np

Arrays = dict[str, np.ndarray]


def cached(
    name: str,
    key: str,
    make: Callable[[], Arrays],
    check: Callable[[Arrays], None] = lambda arrays: None,
) -> Arrays:
    """Arrays from `$XDG_CACHE_HOME/metajax`, made and written there if need be.

    Args:
      name: what the arrays are, in a file's name.
      key: digest of all that they are made from; another digest is another file.
      make: makes the arrays where there are none, or where their file is damaged.
      check: raises a ValueError if arrays that were read are not those meant.

    Returns:
      The arrays by name.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path = caches / "metajax" / f"{name}-{key[:16]}.npz"
    arrays = _read(path, check)
    if arrays is None:
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: Path, check: Callable[[Arrays], None]) -> Arrays | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            stored.zip.testzip()  # NumPy itself stops short of some checksums.
            names = stored["names"].tolist()  # So that a lost member is noticed.
            arrays = {name: stored[name] for name in names}
        check(arrays)
        return arrays
    except Exception as error:  # There is no telling what damage makes NumPy raise.
        logging.warning(
            "The cache %s is damaged or outdated and will be rebuilt: %s", path, error
        )
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """Writes under a name of its own first, so that no reader meets half a cache."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            names = np.array(list(arrays))
            np.savez(file, allow_pickle=False, names=names, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        logging.warning("%s cannot be cached: %s", path, error)
        with contextlib.suppress(OSError):
            temporary.unlink()
