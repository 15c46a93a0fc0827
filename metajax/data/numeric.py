"""Arrays of others in types that JAX keeps: unchanged, or refused by their name."""

from typing import Any

import jax
import numpy as np

_WIDEST = {"f": np.float64, "c": np.complex128, "i": np.int64, "u": np.uint64}


def unmasked(array: Any, name: str) -> np.ndarray:
    """An array, unless NumPy's mask hides some of it, which would be dropped unseen."""
    if np.ma.is_masked(array):
        raise ValueError(f"{name} is an array with masked values: fill or remove them.")
    return np.asarray(array)


def as_numbers(array: Any, name: str) -> np.ndarray:
    """An array in a type that JAX keeps, with the same values up to rounding.

    Args:
      array: numbers, in any byte order.
      name: of the array, for messages.

    Returns:
      The array; of 64 bits 32 are kept, unless JAX is set to keep all.

    Raises:
      ValueError: if the array is masked, holds no numbers, or some that do not fit.
    """
    array = unmasked(array, name)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} must be numbers: got {array.dtype}.")
    kept_type = array.dtype.newbyteorder("=")
    if array.dtype.itemsize >= 8 and array.dtype.kind in _WIDEST:
        kept_type = jax.dtypes.canonicalize_dtype(_WIDEST[array.dtype.kind])
    with np.errstate(over="ignore"):
        kept = array.astype(kept_type, copy=False)
    if kept is array:
        return kept
    whole = array.dtype.kind in "iu"
    changed = kept != array if whole else np.isinf(kept) & ~np.isinf(array)
    if changed.any():
        raise ValueError(
            f"{name} holds {array[changed][0]}, too large for {kept.dtype}: scale or "
            "renumber its values."
        )
    return kept


def check_rounding(kept: np.ndarray, array: Any, name: str) -> None:
    """Refuses features whose values differ by so little that rounding makes them one.

    Such are times in seconds, 1.7e9 and more, which float32 rounds to whole minutes.

    Args:
      kept: the array as `as_numbers` gives it.
      array: the array as it was, `[..., features]`.
      name: of the array, for messages.

    Raises:
      ValueError: if values of a feature become one by errors that its range shows.
    """
    array = np.asarray(array)
    if kept.dtype.kind != "f" or kept.dtype.itemsize >= array.dtype.itemsize:
        return
    if not array.size:
        return
    features = array.shape[-1] if array.ndim > 1 else 1
    given, kept = array.reshape(-1, features), kept.reshape(-1, features)
    with np.errstate(invalid="ignore"):  # Padding may hold anything.
        error = np.abs(kept - given).max(axis=0)
        coarse = error > 1e-5 * np.ptp(given, axis=0)
    given = np.sort(given[:, coarse], axis=0)
    apart = np.diff(given, axis=0) > 1e-12 * np.abs(given[1:])  # By more than noise.
    one = np.diff(given.astype(kept.dtype), axis=0) == 0
    if (apart & one).any():
        raise ValueError(
            f"{name} holds different values that are one in {kept.dtype}, from "
            f"{given.min()} to {given.max()}: subtract an offset from them, or scale them."
        )
