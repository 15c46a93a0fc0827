"""A hypernetwork generates what it says, from the support set alone."""

from functools import partial

import jax
import numpy as np
import pytest

import metajax as mj
from metajax import trees

WAYS, INPUTS = 3, 5
MODEL, EMBEDDING = mj.models.mlp([6], WAYS), mj.models.mlp([7], None)
GENERATOR = mj.models.mlp([4], None)


def _task(seed=0, mask=None):
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(9, INPUTS)).astype(np.float32)
    return mj.Batch(inputs, np.arange(9) % WAYS, mask)


@partial(jax.jit, static_argnums=0)
def _init(learner, inputs):
    return learner.init(jax.random.key(0), inputs)


@partial(jax.jit, static_argnums=0)
def _adapt(learner, meta, support):
    return learner.adapt(jax.random.key(1), meta, support)


def _generated(support, **options):
    learner = mj.hypernetwork(MODEL, EMBEDDING, GENERATOR, WAYS, **options)
    meta = _init(learner, support.inputs)
    return meta, _adapt(learner, meta, support)


@pytest.fixture(scope="module")
def whole():
    return _generated(_task())


def test_the_params_are_those_of_the_equation(whole):
    meta, params = jax.device_get(whole)
    inputs, labels, _ = _task()
    layer = meta.embedding["Dense_0"]
    features = np.maximum(inputs @ layer["kernel"] + layer["bias"], 0)
    means = np.stack([features[labels == c].mean(axis=0) for c in range(WAYS)])
    layer = meta.generator["Dense_0"]
    codes = np.maximum(means @ layer["kernel"] + layer["bias"], 0)
    diagonal = np.diag(codes.mean(axis=0))
    for name in ("kernel", "bias"):
        base, left, right = (t["Dense_0"][name] for t in meta[:3])
        expected = base + left @ diagonal @ right
        np.testing.assert_allclose(params["Dense_0"][name], expected, atol=1e-5)
        column = np.stack([meta.left["head"][name] @ code for code in codes], axis=-1)
        np.testing.assert_allclose(params["head"][name], column, atol=1e-5)
        assert meta.base["head"][name] is None and meta.right["head"][name] is None


@pytest.mark.parametrize(
    "generated, expected",
    [
        ("*", ["Dense_0/bias", "Dense_0/kernel", "head/bias", "head/kernel"]),
        ("*/bias", ["Dense_0/bias", "head/bias", "head/kernel"]),
        ((), ["head/bias", "head/kernel"]),
    ],
)
def test_what_is_generated_depends_on_the_support_set_and_nothing_else_does(
    generated, expected
):
    meta, one = _generated(_task(0), generated=generated)
    _, other = _generated(_task(1), generated=generated)
    moved = jax.tree.map(lambda a, b: bool(np.abs(a - b).max() > 1e-4), one, other)
    names = trees.leaf_paths(moved)
    assert [n for n, each in zip(names, jax.tree.leaves(moved)) if each] == expected
    if "Dense_0/kernel" not in expected:
        np.testing.assert_array_equal(
            one["Dense_0"]["kernel"], meta.base["Dense_0"]["kernel"]
        )


def test_a_class_is_predicted_by_its_own_examples_and_labels_are_but_names(whole):
    learner = mj.hypernetwork(MODEL, EMBEDDING, GENERATOR, WAYS)
    meta, before = whole
    order = np.array([2, 0, 1])
    renamed = _adapt(learner, meta, _task()._replace(targets=order[_task().targets]))
    np.testing.assert_allclose(
        renamed["head"]["kernel"][:, order], before["head"]["kernel"], atol=1e-5
    )
    np.testing.assert_allclose(
        renamed["Dense_0"]["kernel"], before["Dense_0"]["kernel"], atol=1e-5
    )
    # The examples of class 2 change: the columns of the others stay.
    inputs, labels, _ = _task()
    changed = np.where((labels == 2)[:, None], inputs[::-1] + 1, inputs)
    after = _adapt(learner, meta, mj.Batch(changed, labels))["head"]["kernel"]
    gaps = np.abs(after - before["head"]["kernel"]).max(axis=0)
    assert gaps[:2].max() < 1e-5 and gaps[2] > 1e-3


def test_padding_and_classes_without_examples_leave_the_code_of_the_set_alone(whole):
    learner = mj.hypernetwork(MODEL, EMBEDDING, GENERATOR, WAYS)
    meta, _ = whole
    inputs, labels, _ = _task()
    two = _adapt(learner, meta, mj.Batch(inputs, labels, labels < 2))
    junk = np.where((labels < 2)[:, None], inputs, 9)
    again = _adapt(learner, meta, mj.Batch(junk, labels, labels < 2))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), two, again)
    fewer = mj.hypernetwork(mj.models.mlp([6], 2), EMBEDDING, GENERATOR, 2)
    shown = labels < 2
    alone = _adapt(fewer, meta, mj.Batch(inputs[shown], labels[shown]))
    np.testing.assert_allclose(
        two["Dense_0"]["kernel"], alone["Dense_0"]["kernel"], atol=1e-5
    )
    np.testing.assert_allclose(
        two["head"]["kernel"][:, :2], alone["head"]["kernel"], atol=1e-5
    )


def test_a_code_of_32_numbers_moves_all_of_a_784_128_10_network():
    learner = mj.hypernetwork(
        mj.models.mlp([128], 10), EMBEDDING, mj.models.mlp([32], None), 10
    )
    images = jax.ShapeDtypeStruct((10, 28, 28, 1), np.float32)
    meta = jax.eval_shape(learner.init, jax.random.key(0), images)
    support = mj.Batch(images, jax.ShapeDtypeStruct((10,), np.int32))
    params = jax.eval_shape(learner.adapt, jax.random.key(0), meta, support)
    assert trees.size(params) == 784 * 128 + 128 + 128 * 10 + 10
    body = 32 * (784 + 128 + 1 + 128)
    assert trees.size((meta.left, meta.right)) == body + 32 * (128 + 1)


def test_channels_of_conv4_are_modulated_and_its_statistics_are_those_of_the_support():
    model = mj.models.conv4(WAYS, width=2, normalization="support")
    embedding = mj.models.conv4(None, width=2, normalization="layer")
    learner = mj.hypernetwork(
        model, embedding, GENERATOR, WAYS, generated="Normalize_*"
    )
    images = np.random.default_rng(0).normal(size=(9, 8, 8, 1)).astype(np.float32)
    support = mj.Batch(images[:6], np.arange(6) % WAYS)
    meta = _init(learner, support.inputs)
    adapted = _adapt(learner, meta, support)
    generated = (
        adapted.params["Normalize_2"]["scale"] - meta.base["Normalize_2"]["scale"]
    )
    assert np.abs(generated).max() > 1e-5
    np.testing.assert_array_equal(
        adapted.params["Conv_2"]["kernel"], meta.base["Conv_2"]["kernel"]
    )
    predict = jax.jit(lambda queries: learner.predict(meta, adapted, queries))
    changed = np.concatenate([images[6:7], images[7:] + 3])
    np.testing.assert_allclose(predict(images[6:])[0], predict(changed)[0], atol=1e-5)


def test_in_regression_the_targets_are_read_and_padding_is_not():
    model = mj.models.mlp([6], 1)
    learner = mj.hypernetwork(model, EMBEDDING, GENERATOR, None)
    inputs, _, _ = _task()
    targets = np.sin(inputs[:, :1])
    meta = _init(learner, inputs)
    mask = np.arange(9) < 7
    padded = mj.Batch(
        *(np.where(mask[:, None], each, np.nan) for each in (inputs, targets)), mask
    )
    absent = _adapt(learner, meta, mj.Batch(inputs[:7], targets[:7]))
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-5),
        _adapt(learner, meta, padded),
        absent,
    )
    other = _adapt(learner, meta, mj.Batch(inputs[:7], -targets[:7]))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), absent, other)
    assert min(jax.tree.leaves(moved)) > 1e-5


def test_what_does_not_fit_is_refused():
    inputs = _task().inputs
    for options, message in [
        ({"head": "tail/*"}, "Nothing matches 'tail/\\*'"),
        ({"generated": "Conv_*"}, "Nothing matches 'Conv_\\*'"),
        ({"head": "Dense_0/*"}, "must be the 3 classes"),
    ]:
        learner = mj.hypernetwork(MODEL, EMBEDDING, GENERATOR, WAYS, **options)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(learner.init, jax.random.key(0), inputs)
