"""Features of a frozen encoder: made once, kept, and used as the inputs of tasks."""

from collections.abc import Callable, Sequence
import hashlib
import json
import re
import time
from typing import Any, Literal, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.cache import Arrays, cached
from metajax.data.characters import as_texts
from metajax.data.class_arrays import ClassArrays
from metajax.data.numeric import as_numbers
from metajax.logs import progress_bar

# From a list of strings, images uint8[examples, height, width, channels] or other arrays
# to vectors [examples, features], or arrays [examples, ...] of other shapes.
Function = Callable[[Any], np.ndarray]
Takes = Literal["images", "texts", "arrays"]


class Encoder(NamedTuple):
    """A frozen function from raw inputs to vectors, such as a pretrained network.

    Attributes:
      name: what it is called, also in the names of files.
      takes: what it is a function of: images, texts or arrays.
      function: from some raw inputs to vectors `[examples, features]` or arrays of another
        shape, each example by itself.
      digest: tells it from every other encoder; None if nothing but its name does.
      batch_size: inputs given to it at a time.
    """

    name: str
    takes: Takes
    function: Function
    digest: str | None = None
    batch_size: int = 64


def from_encoder(
    function: Function, *, name: str, takes: Takes, batch_size: int = 64
) -> Encoder:
    """Any function as an encoder.

    Args:
      function: from `batch_size` or fewer raw inputs to vectors `[examples, features]`, or
        arrays `[examples, ...]` of one shape:
        a list of strings, images as uint8 `[examples, height, width, channels]`, or
        arrays as the data has them. What it gives for an example must not depend on the
        others.
      name: of letters, digits and `-._`; another function, another name. Features kept
        under a name are held against that of one example of each class when they are
        read, and made anew if it differs.
      takes: "images", "texts" or "arrays".
      batch_size: how many inputs it is given at a time.

    Returns:
      The encoder.

    Raises:
      ValueError: if an argument is not one of its choices.

    Example:
      >>> lengths = from_encoder(
      ...     lambda texts: np.array([[len(text)] for text in texts]),
      ...     name="lengths",
      ...     takes="texts",
      ... )
      >>> features(lengths, ["one", "three"]).tolist()
      [[3.0], [5.0]]
    """
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise ValueError(f"An encoder's name is letters, digits and -._: got {name!r}.")
    if takes not in ("images", "texts", "arrays"):
        raise ValueError(f"An encoder takes images, texts or arrays: got {takes!r}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}.")
    return Encoder(name, takes, function, None, batch_size)


def encode(data: ClassArrays, encoder: Encoder) -> ClassArrays:
    """The same examples as vectors, which every learner takes as its inputs.

    Those of a class are made once, and kept in the user's cache directory by a digest of
    them and of the encoder, so that other splits of the same classes find them there.

    Args:
      data: images; texts, read with `encode=mj.data.characters`; or arrays.
      encoder: what turns them into vectors.

    Returns:
      The examples as `[examples, features]`, class by class: float16 where the encoder
      gives that, else float32.

    Raises:
      ValueError: if the encoder does not take such data, or gives no finite vectors.
    """
    inputs, began, num_made = np.asarray(data.inputs), time.monotonic(), 0
    vectors, bar = [], progress_bar(int(data.counts.sum()), unit=f" {encoder.takes}")
    for row, count in zip(data.rows, data.counts):
        raw = _raw(encoder, inputs[row[:count]])
        found, is_made = _kept(encoder, raw)
        vectors.append(found)
        num_made += is_made * len(raw)
        bar.update(len(raw))
    bar.close()
    if num_made:
        about = num_made, encoder.takes, encoder.name, time.monotonic() - began
        logging.info("%d %s were encoded by %s in %.0f s.", *about)
    starts = np.cumsum(data.counts) - data.counts
    places = np.arange(data.rows.shape[1])[None]
    rows = np.where(places < data.counts[:, None], starts[:, None] + places, 0)
    joined = jnp.asarray(_joined(encoder, vectors))
    return ClassArrays(joined, rows.astype(np.int32), data.counts, data.names)


def _kept(encoder: Encoder, raw: Any) -> tuple[np.ndarray, bool]:
    """The vectors of a class, from the cache if they are there, and if they were not."""
    key, made = _digest(encoder, raw), []

    def make() -> Arrays:
        made.append(features(encoder, raw))
        return {"key": np.array(key), "features": made[0]}

    def check(kept: Arrays) -> None:
        if set(kept) != {"key", "features"} or kept["key"] != key:
            raise ValueError("it is of another encoder or of other data")
        before = _checked(kept["features"], len(raw), encoder)[:1]
        if encoder.digest is None:
            now, scale = features(encoder, raw[:1]), np.abs(before).max()
            if now.shape != before.shape or np.abs(now - before).max() > 1e-3 * scale:
                raise ValueError(f"the encoder {encoder.name} gives other features now")

    arrays = cached(f"{encoder.name}/features", key, make, check)
    return arrays["features"], bool(made)


def _digest(encoder: Encoder, raw: Any) -> str:
    """Tells a class and its encoder from every other."""
    if isinstance(raw, list):
        shape, content = "texts", json.dumps(raw).encode()
    else:
        shape, content = f"{raw.dtype} {raw.shape}", np.ascontiguousarray(raw).tobytes()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{encoder.name} {encoder.digest} {shape} ".encode() + content)
    return digest.hexdigest()


def features(encoder: Encoder, inputs: Sequence[str] | np.ndarray) -> np.ndarray:
    """The vectors of raw inputs, in batches; nothing is kept.

    Args:
      encoder: what makes them.
      inputs: strings, or arrays as `ClassArrays` has them: images of uint8, or from 0 to
        1; ids of characters; vectors.

    Returns:
      `[examples, features]`, or arrays of the encoder's shape: float16 where it gives that,
      else float32.

    Raises:
      ValueError: if the encoder does not take such inputs, or gives no finite vectors.
    """
    raw = _raw(encoder, inputs)
    order, size = np.arange(len(raw)), encoder.batch_size
    if encoder.takes == "texts":  # Those of a batch are padded to the longest of it.
        order = np.argsort([len(text) for text in raw], kind="stable")
    made = []
    for batch in (order[i : i + size] for i in range(0, len(order), size)):
        some = [raw[i] for i in batch] if isinstance(raw, list) else raw[batch]
        made.append(_checked(encoder.function(some), len(batch), encoder))
    return _joined(encoder, made)[np.argsort(order)]


def _joined(encoder: Encoder, parts: Sequence[np.ndarray]) -> np.ndarray:
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1:
        raise ValueError(
            f"{encoder.name} gives arrays of different shapes, {list(shapes[0])} and "
            f"{list(shapes[1])}: have it pad them all to one."
        )
    return np.concatenate(parts)


def _raw(encoder: Encoder, inputs: Sequence[str] | np.ndarray) -> Any:
    """Inputs as the encoder's function takes them."""
    if not len(inputs):
        raise ValueError(f"There are no inputs for {encoder.name}: give at least one.")
    if encoder.takes == "texts":
        return _strings(encoder, inputs)
    arrays = as_numbers(inputs, "Inputs")
    return _pixels(encoder, arrays) if encoder.takes == "images" else arrays


def _strings(encoder: Encoder, texts: Sequence[str] | np.ndarray) -> list[str]:
    if isinstance(texts, np.ndarray | jax.Array) and texts.dtype.kind in "iu":
        texts = as_texts(np.asarray(texts))
    strings = [*texts]
    strange = [text for text in strings if not isinstance(text, str)]
    if strange:
        raise ValueError(f"{encoder.name} takes strings: got {strange[0]!r}.")
    return strings


def _pixels(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{encoder.name} takes images [examples, height, width, 1 or 3]: got "
            f"{images.dtype} {list(images.shape)}."
        )
    if images.dtype == np.uint8:
        return images
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"{encoder.name} takes images of uint8, or from 0 to 1: got {images.dtype} "
            f"from {images.min()} to {images.max()}."
        )
    return np.rint(images * 255).astype(np.uint8)


def _checked(vectors: Any, examples: int, encoder: Encoder) -> np.ndarray:
    vectors = np.asarray(vectors)
    shape = vectors.shape
    if len(shape) < 2 or shape[0] != examples or not vectors.size:
        raise ValueError(
            f"{encoder.name} must give one vector an example, [{examples}, features], or "
            f"one array, [{examples}, ...]: got {list(shape)}."
        )
    if vectors.dtype.kind not in "iuf" or not np.isfinite(vectors).all():
        raise ValueError(f"{encoder.name} gives NaN, infinite values or no numbers.")
    return vectors if vectors.dtype == np.float16 else vectors.astype(np.float32)
