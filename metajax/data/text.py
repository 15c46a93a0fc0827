"""Texts as token ids: split up once on the host, so that tasks of text are arrays.

Ids are hashes of tokens, so that there is no vocabulary to build, to keep or to miss a
word. Id 0 is padding.
"""

from collections.abc import Callable, Sequence
from functools import cache
import re
import unicodedata
import zlib

from absl import logging
import numpy as np

from metajax.data.class_arrays import ClassArrays, from_arrays

Encode = Callable[[str], Sequence[int]]  # From a text to ids from 1 on.


def words(vocabulary: int = 8192) -> Encode:
    """Encodes a text as its words, in order: for models that read.

    Args:
      vocabulary: ids run from 1 to one less; two words may share one.

    Returns:
      A function from a text to its ids.

    Raises:
      ValueError: if the vocabulary is smaller than 2.

    Example:
      >>> encode = words(100)
      >>> encode("Play it again!") == encode("play IT, again")
      True
      >>> len(encode("Play it again!"))
      3

    Note: what is written without spaces, as Chinese, Japanese and Thai are, is one word
    between two signs; `ngrams` tells such texts apart by their characters.
    """
    identify = _hashing(vocabulary)
    return lambda text: [identify(word) for word in split_words(text)]


def ngrams(
    vocabulary: int = 8192,
    *,
    words: Sequence[int] = (1, 2),
    characters: Sequence[int] = (3, 4),
) -> Encode:
    """Encodes a text as what it contains: for bags, which count ids.

    Args:
      vocabulary: ids run from 1 to one less; two n-grams may share one.
      words: lengths of runs of words.
      characters: lengths of runs of characters within a word and the space on either
        side of it, which tell a word by its stem; (1, 2) where words are not spaced, as
        in Chinese. A letter and its marks are one character.

    Returns:
      A function from a text to its ids; what comes twice is there twice.

    Raises:
      ValueError: if the vocabulary is smaller than 2.

    Example:
      >>> encode = ngrams(100, words=(1, 2), characters=(4,))
      >>> len(encode("Play it"))  # play, it, play it; " pla", "play", "lay ", " it "
      7
    """
    identify = _hashing(vocabulary)

    def encode(text: str) -> list[int]:
        tokens = split_words(text)
        runs = ["w" + " ".join(run) for n in words for run in _runs(tokens, n)]
        for token in tokens:
            letters = [" ", *_patterns()["letter"].findall(token), " "]
            runs += [
                "c" + "".join(run) for n in characters for run in _runs(letters, n)
            ]
        return [identify(run) for run in runs]

    return encode


def split_words(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and inner apostrophes, in lower case.

    A letter's marks belong to it: vowel signs, points, tones. So do joiners within a word.

    Example:
      >>> split_words("Don't stop at No. 9!")
      ["don't", 'stop', 'at', 'no', '9']
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return _patterns()["word"].findall(unicodedata.normalize("NFC", plain))


@cache
def _patterns() -> dict[str, re.Pattern]:
    """What a letter and a word are: `re` itself takes a mark for no part of a word."""
    planes = *range(0x20000), *range(0xE0000, 0xE1000)  # There are marks in no other.
    codes = {code for code in planes if unicodedata.category(chr(code))[0] == "M"}
    starts = sorted(codes - {code + 1 for code in codes})
    ends = sorted(codes - {code - 1 for code in codes})
    marks = "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends))
    joined = rf"\w+(?:[\u200c\u200d]*[\w{marks}])*"
    return {
        "letter": re.compile(rf"\w(?:[\u200c\u200d]*[{marks}])*|."),
        "word": re.compile(rf"{joined}(?:'{joined})*"),
    }


def _runs(sequence: Sequence, length: int) -> list:
    return [sequence[i : i + length] for i in range(len(sequence) - length + 1)]


def _hashing(vocabulary: int) -> Callable[[str], int]:
    if vocabulary < 2:
        raise ValueError(
            f"A vocabulary needs at least 2 ids, of which 0 is padding: got {vocabulary}."
        )
    # Unlike `hash`, the same in every process and on every machine.
    return lambda token: 1 + zlib.crc32(token.encode()) % (vocabulary - 1)


def from_texts(
    texts: Sequence[str],
    labels: Sequence[int] | Sequence[str],
    names: Sequence[str] | None = None,
    *,
    encode: Encode,
    length: int | None = None,
) -> ClassArrays:
    """Groups labelled texts by class, as token ids.

    Args:
      texts: the texts, `[examples]`.
      labels: the class of each, as in `from_arrays`.
      names: one name a class, as in `from_arrays`.
      encode: from a text to its ids, such as `words()` or `ngrams()`.
      length: ids kept of a text; as many as the longest has, if None.

    Returns:
      The texts as int32 ids `[examples, length]`, padded with 0 at the end, by class.

    Raises:
      ValueError: if texts and labels do not fit, or a text has no token.

    Example:
      >>> texts = ["good", "very good", "bad", "just too bad"]
      >>> data = from_texts(texts, list("ppnn"), encode=words())
      >>> data.names, data.inputs.shape
      (('n', 'p'), (4, 3))
    """
    return from_ids(encoded(texts, encode), labels, names, length=length)


def encoded(texts: Sequence[str], encode: Encode) -> list[Sequence[int]]:
    """The ids of each text.

    Raises:
      ValueError: if one is no text, or has no token; it names which.
    """
    strange = [(i, text) for i, text in enumerate(texts) if not isinstance(text, str)]
    if strange:
        index, text = strange[0]
        raise ValueError(f"Texts must be strings: text {index} is {text!r}.")
    ids = [encode(text) for text in texts]
    empty = [i for i, tokens in enumerate(ids) if not len(tokens)]
    if empty:
        named = "; ".join(f"text {i}, {texts[i][:40]!r}, has no token" for i in empty)
        pronoun = "it" if len(empty) == 1 else "them"
        raise ValueError(f"{named}: remove {pronoun}.")
    return ids


def from_ids(
    ids: Sequence[Sequence[int]],
    labels: Sequence[int] | Sequence[str],
    names: Sequence[str] | None = None,
    *,
    length: int | None = None,
) -> ClassArrays:
    """Groups labelled texts by class, given as ids; see `from_texts`."""
    if length is not None and length < 1:
        raise ValueError(f"from_texts: length must be at least 1: got {length}.")
    longest = max(map(len, ids), default=1)
    return from_arrays(padded(ids, length or longest), labels, names)


def padded(ids: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Ids of texts as int32 `[examples, length]`, with 0 at the end; warns of cuts."""
    cut = sum(len(tokens) > length for tokens in ids)
    if cut:
        logging.warning(
            "%d of %d texts have more than %d tokens and were cut: the longest has %d; "
            "a greater length keeps all.",
            *(cut, len(ids), length, max(map(len, ids))),
        )
    inputs = np.zeros((len(ids), length), np.int32)
    for row, tokens in zip(inputs, ids):
        row[: len(tokens)] = tokens[: len(row)]
    return inputs


def idf(data: ClassArrays, vocabulary: int) -> np.ndarray:
    """How rare each token is: the inverse document frequency.

        idf[id] = 1 + log((1 + examples) / (1 + examples with id))

    Args:
      data: the texts of the training classes, as ids.
      vocabulary: how many ids there are.

    Returns:
      `[vocabulary]`, float32, at least 1, and the more the rarer.

    Raises:
      ValueError: if the data is no text, or an id is not below `vocabulary`.

    Source:
      Sparck Jones 1972, smoothed so that tokens never met have a finite weight.

    Example:
      >>> data = from_texts(["a b", "a"], [0, 1], encode=words(64))
      >>> np.unique(idf(data, 64))  # "a", "b", and all others
      array([1.       , 1.4054651, 2.0986123], dtype=float32)
    """
    if data.inputs.ndim != 2 or data.inputs.dtype != np.int32:
        raise ValueError(
            "idf needs texts as int32 ids [examples, length], as from from_texts: got "
            f"{data.inputs.dtype} {data.inputs.shape}."
        )
    kept = np.concatenate([row[:n] for row, n in zip(data.rows, data.counts)])
    ids = np.sort(np.asarray(data.inputs)[kept], axis=1)
    if ids.max() >= vocabulary:
        raise ValueError(
            f"idf: the data has id {ids.max()}, where a vocabulary of {vocabulary} ends "
            f"at {vocabulary - 1}: use the vocabulary that it was encoded with."
        )
    first = np.diff(ids, axis=1, prepend=0) > 0  # Once a text, and never padding.
    documents = np.bincount(ids[first], minlength=vocabulary)
    return (1 + np.log((1 + len(ids)) / (1 + documents))).astype(np.float32)
