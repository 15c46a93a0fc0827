"""Conv4 is the network of the literature, and leaks what its protocol says it leaks."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.losses import cross_entropy
from metajax.models import conv4
from metajax.models.adapters import Calibrated

PROTOCOLS = ["transductive", "support", "layer", "group", "none"]


def _random(seed):
    return np.random.default_rng(seed)


def _images(seed, examples, size=8, channels=1):
    return _random(seed).random((examples, size, size, channels), np.float32)


def _params(model, images):
    """Params away from their initial ones and zeros, where nothing cancels."""
    shapes, random = jax.eval_shape(model.init, jax.random.key(0), images), _random(0)

    def draw(path, leaf):
        mean = path[-1].key == "scale"
        return (mean + 0.2 * random.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _model(protocol):
    model = conv4(3, width=16, normalization=protocol)
    return model, _params(model, _images(0, 2))


@pytest.fixture(scope="module", params=PROTOCOLS)
def protocol(request):
    return request.param


@pytest.fixture(scope="module")
def adapted(protocol):
    """One MAML step on a support batch: `(predict, adapted, support)`."""
    model, params = _model(protocol)
    learner = mj.maml(model, cross_entropy, optax.sgd(0.4), 1)
    support = mj.Batch(_images(1, 6), np.arange(6) % 3)
    after = jax.jit(learner.adapt)(jax.random.key(0), params, support)
    predict = jax.jit(lambda inputs: learner.predict(params, after, inputs))
    return predict, after, support


def test_only_transductive_predictions_depend_on_the_other_queries(adapted, protocol):
    predict, *_ = adapted
    queries = _images(2, 4)
    others = np.concatenate([queries[:1], 1 - 3 * queries[1:]])
    before, after = predict(queries), predict(others)
    assert np.abs(before[1:] - after[1:]).max() > 1e-2  # The others did change.
    if protocol == "transductive":
        assert np.abs(before[0] - after[0]).max() > 1e-2
    else:
        np.testing.assert_allclose(before[0], after[0], atol=1e-5)


def test_only_transductive_predictions_differ_for_a_query_alone(adapted, protocol):
    predict, *_ = adapted
    queries = _images(2, 4)
    alone = np.concatenate([predict(queries[i : i + 1]) for i in range(4)])
    gap = np.abs(predict(queries) - alone).max()
    assert gap > 1e-2 if protocol == "transductive" else gap < 1e-5


def test_only_the_support_protocol_fixes_statistics(adapted, protocol):
    _, after, _ = adapted
    assert isinstance(after, Calibrated) == (protocol == "support")


def _pad(batch):
    """The batch with two examples of junk in front."""
    junk = 9 * _images(5, 2)
    return mj.Batch(
        np.concatenate([junk, batch.inputs]),
        np.concatenate([[0, 0], batch.targets]),
        np.arange(2 + len(batch.targets)) >= 2,
    )


@pytest.mark.parametrize(
    "protocol, name",
    [
        *((protocol, "maml") for protocol in PROTOCOLS),
        ("transductive", "cavia"),
        ("support", "cavia"),
    ],
    indirect=["protocol"],
)
def test_padding_changes_no_prediction_under_any_protocol(protocol, name):
    model, params = _model(protocol)
    if name == "maml":
        learner = mj.maml(model, cross_entropy, optax.sgd(0.4), 1)
    else:
        learner = mj.cavia(model, cross_entropy, optax.sgd(1.0), 1, num_context=2)
        params = jax.jit(learner.init)(jax.random.key(1), _images(0, 2))

    @jax.jit
    def predict(task):
        adapted = learner.adapt(jax.random.key(0), params, task.support)
        return learner.predict(params, adapted, task.query.shown)

    task = mj.Task(
        mj.Batch(_images(1, 6), np.arange(6) % 3), mj.Batch(_images(2, 4), np.arange(4))
    )
    outputs = predict(mj.Task(_pad(task.support), _pad(task.query)))
    np.testing.assert_allclose(outputs[2:], predict(task), rtol=1e-4, atol=1e-5)


def test_support_predictions_depend_on_the_support_batch_by_its_statistics():
    model, params = _model("support")
    support, queries = _images(1, 6), _images(2, 4)
    calibrate, apply = jax.jit(model.calibrate), jax.jit(model.apply)
    calibrated, other = calibrate(params, support), calibrate(params, 1 - 3 * support)
    assert np.abs(apply(calibrated, queries) - apply(other, queries)).max() > 1e-2

    # On the support batch itself nothing changes: by its moments it was normalised.
    uncalibrated = jax.jit(conv4(3, width=16).apply)(params, support)
    np.testing.assert_allclose(apply(calibrated, support), uncalibrated, atol=1e-5)
    kernel = params["Conv_0"]["kernel"]
    maps = np.asarray(mj.models.convolution.convolve(support, kernel, (2, 2)))
    mean, variance = calibrated.statistics["Normalize_0"]["moments"]
    np.testing.assert_allclose(mean.ravel(), maps.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(variance.ravel(), maps.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    "downsample, size, channels, features",
    [
        ("stride", 28, 1, 64),
        ("stride", 84, 3, 64),
        ("pool", 28, 1, 64),
        ("pool", 84, 3, 5 * 5 * 64),
    ],
)
def test_shapes_are_those_of_the_literature(downsample, size, channels, features):
    model = conv4(5, downsample=downsample)
    images = _images(0, 2, size, channels)
    params = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.eval_shape(model.apply, params, images).shape == (2, 5)
    assert params["head"]["kernel"].shape == (features, 5)
    convolutions = 3 * 3 * (channels + 3 * 64) * 64
    head = features * 5 + 5
    assert mj.trees.size(params) == convolutions + 4 * 2 * 64 + head


@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_conv4_equals_a_network_of_library_layers(downsample):
    model = conv4(3, width=4, downsample=downsample)
    images = _images(1, 3, size=20, channels=2)
    params = _params(model, images)

    @jax.jit
    def oracle(params, hidden):
        strides = (2, 2) if downsample == "stride" else (1, 1)
        convolution = nn.Conv(4, (3, 3), strides, use_bias=False)
        norm = nn.BatchNorm(use_running_average=False, epsilon=1e-3)
        for i in range(4):
            hidden = convolution.apply({"params": params[f"Conv_{i}"]}, hidden)
            affine = {"params": params[f"Normalize_{i}"]}
            hidden, _ = norm.apply(affine, hidden, mutable=["batch_stats"])
            hidden = nn.relu(hidden)
            if downsample == "pool":
                hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        if downsample == "stride":
            hidden = nn.avg_pool(hidden, hidden.shape[1:3])
        hidden = hidden.reshape(len(hidden), -1)
        return nn.Dense(3).apply({"params": params["head"]}, hidden)

    np.testing.assert_allclose(
        jax.jit(model.apply)(params, images), oracle(params, images), atol=1e-4
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"downsample": "max"}, "'max': choose one of stride, pool"),
        ({"normalization": "batch"}, "'batch': choose one of " + ", ".join(PROTOCOLS)),
        ({"width": 0}, "positive: 5, 0"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        conv4(5, **options)


@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_without_ways_the_outputs_are_what_the_head_takes(downsample):
    images = _images(0, 2, 16)
    model = conv4(3, width=8, downsample=downsample)
    params = _params(model, images)
    body = conv4(None, width=8, downsample=downsample)
    features = jax.jit(body.apply)(params, images)
    logits = features @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(
        logits, jax.jit(model.apply)(params, images), rtol=1e-5, atol=1e-5
    )


def test_zero_ways_are_refused():
    with pytest.raises(ValueError, match="positive: 0, 64"):
        conv4(0)


def test_without_the_final_relu_features_may_be_negative():
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
    cut, whole = (
        mj.models.conv4(None, width=3, downsample="pool", final_relu=final_relu)
        for final_relu in (True, False)
    )
    params = jax.jit(cut.init)(jax.random.key(0), images)
    features = jax.jit(whole.apply)(params, images)
    assert np.min(features) < 0
    # The greatest of a pool is cut off as each of it is.
    np.testing.assert_array_equal(
        jax.nn.relu(features), jax.jit(cut.apply)(params, images)
    )
