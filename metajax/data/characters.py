"""Texts kept as they are: ids that are their characters, for encoders that read text."""

from collections.abc import Sequence

import numpy as np

# Added to code points, so that ids of words or n-grams are not taken for characters.
_FIRST = 1 << 24


def characters(text: str) -> Sequence[int]:
    """Encodes a text as its characters, from which it can be had back.

    Args:
      text: the text.

    Returns:
      One id a character, to be given where `words()` or `ngrams()` are.

    Raises:
      ValueError: if the text holds half a pair of surrogates, which is no character.

    Example:
      >>> len(characters("Play it!"))
      8
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return (codes + _FIRST).tolist()


def as_texts(ids: np.ndarray) -> list[str]:
    """The texts whose characters these are.

    Args:
      ids: `[examples, length]`, int32, padded with 0, as `from_texts` has them.

    Returns:
      The texts, `[examples]`.

    Raises:
      ValueError: if these are no ids of characters.

    Example:
      >>> as_texts(np.array([characters("one"), characters("two")], np.int32))
      ['one', 'two']
    """
    ids = np.asarray(ids)
    real = ids != 0
    if ids.ndim != 2 or ids.dtype != np.int32 or (ids[real] < _FIRST).any():
        raise ValueError(
            "Texts must come as strings or as ids of their characters, int32 [examples, "
            f"length]: got {ids.dtype} {list(ids.shape)}; read them with "
            "encode=mj.data.characters."
        )
    codes = (ids - _FIRST).astype(np.uint32)
    return [row[kept].tobytes().decode("utf-32-le") for row, kept in zip(codes, real)]
