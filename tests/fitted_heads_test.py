"""Learners that fit a head to features are what their papers' equations say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import losses
from metajax.losses import cross_entropy

WAYS, FEATURES = 3, 4
EMBEDDING, RELATION = mj.models.mlp([FEATURES], None), mj.models.mlp([5], 1)
FULL_CONTEXT = mj.models.full_context(3)
LEARNERS = {
    "protonet": lambda ways: mj.protonet(EMBEDDING, ways),
    "matching_net": lambda ways: mj.matching_net(EMBEDDING, ways),
    "contextual": lambda ways: mj.matching_net(EMBEDDING, ways, context=FULL_CONTEXT),
    "relation_net": lambda ways: mj.relation_net(EMBEDDING, RELATION, ways),
    "r2d2": lambda ways: mj.r2d2(EMBEDDING, ways),
    "metaoptnet": lambda ways: mj.metaoptnet(EMBEDDING, ways, regularization=0.5),
    "svm": lambda ways: mj.metaoptnet(EMBEDDING, ways, head="svm"),
    "meta_baseline": lambda ways: mj.meta_baseline(EMBEDDING, ways),
    "baseline": lambda ways: mj.baseline(
        EMBEDDING, cross_entropy, optax.sgd(0.5), 5, ways=ways
    ),
}


def _task(shots=2, queries=5):
    random = np.random.default_rng(0)
    targets = np.arange(WAYS * shots) % WAYS
    support = random.normal(size=(len(targets), 6)).astype(np.float32)
    query = random.normal(size=(queries, 6)).astype(np.float32)
    return mj.Batch(support, targets), query


def _solve(learner, seed=0, support=None):
    """Outputs for the queries, and the features of support and queries."""
    shown, query = _task()
    support = shown if support is None else support

    @jax.jit
    def solve():
        meta = learner.init(jax.random.key(seed), support.inputs)
        adapted = learner.adapt(jax.random.key(1), meta, support)
        params = getattr(meta, "params", meta)
        features = [EMBEDDING.apply(params, x) for x in (support.inputs, query)]
        return meta, learner.predict(meta, adapted, query), features

    meta, outputs, features = solve()
    return meta, np.asarray(outputs), list(map(np.asarray, features))


def _means(features, targets):
    return np.stack([features[targets == c].mean(0) for c in range(WAYS)])


def test_protonet_is_a_linear_classifier_of_the_features():
    _, outputs, (shown, asked) = _solve(LEARNERS["protonet"](WAYS))
    means = _means(shown, _task()[0].targets)
    # Snell et al. 2017, equation 8; what is common to all classes falls away.
    linear = 2 * asked @ means.T - (means**2).sum(1)
    np.testing.assert_allclose(
        jax.nn.log_softmax(outputs), jax.nn.log_softmax(linear), atol=1e-4
    )


def test_matching_net_votes_by_a_softmax_over_examples():
    _, outputs, (shown, asked) = _solve(LEARNERS["matching_net"](WAYS))
    lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(shown, axis=1)
    cosines = asked @ shown.T / np.maximum(lengths, 1e-9)
    weights = np.asarray(jax.nn.softmax(10 * cosines))
    one_hot = np.eye(WAYS)[_task()[0].targets]
    np.testing.assert_allclose(jax.nn.softmax(outputs), weights @ one_hot, atol=1e-5)


def _lstm(params, memory, hidden, inputs):
    """One step, as Hochreiter and Schmidhuber's gates say."""

    def gate(name):
        added = inputs @ params[f"i{name}"]["kernel"]
        recurrent = params[f"h{name}"]
        return added + hidden @ recurrent["kernel"] + recurrent["bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    memory = sigmoid(gate("f")) * memory + sigmoid(gate("i")) * np.tanh(gate("g"))
    return memory, sigmoid(gate("o")) * np.tanh(memory)


def test_matching_net_reads_the_full_context():
    """Vinyals et al. 2016, appendix A, written out."""
    meta, outputs, (shown, asked) = _solve(LEARNERS["contextual"](WAYS))
    cells = jax.tree.map(np.asarray, meta.support | meta.queries)
    support = shown.copy()
    for name, order in (
        ("forward", range(len(shown))),
        ("backward", range(len(shown))[::-1]),
    ):
        memory = hidden = np.zeros(FEATURES)
        for i in order:
            memory, hidden = _lstm(cells[name], memory, hidden, shown[i])
            support[i] += hidden
    memory, hidden = np.zeros_like(asked), asked
    for _ in range(3):
        read = np.asarray(jax.nn.softmax(hidden @ support.T)) @ support
        inputs = np.concatenate([asked, read], axis=1)
        memory, hidden = _lstm(cells["reading"], memory, hidden, inputs)
        hidden = hidden + asked
    lengths = np.linalg.norm(hidden, axis=1)[:, None] * np.linalg.norm(support, axis=1)
    weights = np.asarray(jax.nn.softmax(10 * (hidden @ support.T / lengths)))
    one_hot = np.eye(WAYS)[_task()[0].targets]
    np.testing.assert_allclose(jax.nn.softmax(outputs), weights @ one_hot, atol=1e-5)


def test_relation_net_compares_the_sum_of_a_class_with_each_query():
    meta, outputs, (shown, asked) = _solve(LEARNERS["relation_net"](WAYS))
    sums = 2 * _means(shown, _task()[0].targets)
    for q in range(len(asked)):
        for c in range(WAYS):
            pair = np.concatenate([sums[c], asked[q]])[None]
            score = RELATION.apply(meta.relation, pair)
            np.testing.assert_allclose(outputs[q, c], score[0, 0], atol=1e-5)


def test_r2d2_is_ridge_regression_of_one_hot_labels():
    meta, outputs, (shown, asked) = _solve(LEARNERS["r2d2"](WAYS))
    one_hot = np.eye(WAYS)[_task()[0].targets]
    assert float(meta.log_ridge) == 0
    weights = np.linalg.solve(shown.T @ shown + np.eye(FEATURES), shown.T @ one_hot)
    np.testing.assert_allclose(outputs, 10 * asked @ weights, atol=1e-3)


def test_metaoptnet_is_at_the_optimum_of_its_loss():
    learner, (support, _) = LEARNERS["metaoptnet"](WAYS), _task()
    meta, *_ = _solve(learner)
    adapted = jax.jit(learner.adapt)(jax.random.key(0), meta, support)
    features = jax.jit(EMBEDDING.apply)(meta.params, support.inputs)

    @jax.jit
    @jax.grad
    def slope(weights):
        total = len(support.targets) * cross_entropy(
            features @ weights, support.targets
        )
        return total + 0.25 * jnp.sum(weights**2)

    assert np.abs(slope(adapted.head)).max() < 1e-5
    assert jnp.abs(adapted.head).max() > 0.1


def test_the_length_of_features_is_nothing_to_meta_baseline():
    learner, (support, query) = LEARNERS["meta_baseline"](WAYS), _task()

    @jax.jit
    def outputs(length):
        meta = learner.init(jax.random.key(0), support.inputs)
        scaled = jax.tree.map(
            lambda x: length * x, meta.params
        )  # Of one layer of ReLU.
        meta = meta._replace(params=scaled)
        return learner.predict(meta, learner.adapt(None, meta, support), query)

    np.testing.assert_allclose(outputs(3.0), outputs(1.0), atol=1e-4)


def test_a_cosine_head_without_steps_is_the_nearest_mean():
    head = mj.baseline(
        EMBEDDING, cross_entropy, optax.sgd(0.5), 0, ways=WAYS, head="cosine"
    )
    _, outputs, features = _solve(head)
    means = _means(features[0], _task()[0].targets)
    lengths = np.linalg.norm(features[1], axis=1)[:, None] * np.linalg.norm(
        means, axis=1
    )
    cosines = features[1] @ means.T / np.maximum(lengths, 1e-9)
    np.testing.assert_allclose(outputs, 10 * cosines, atol=1e-4)


def test_a_linear_head_is_logistic_regression_by_gradient_descent():
    _, outputs, (shown, asked) = _solve(LEARNERS["baseline"](WAYS))
    kernel, bias = np.zeros((FEATURES, WAYS)), np.zeros(WAYS)
    one_hot = np.eye(WAYS)[_task()[0].targets]
    for _ in range(5):
        slope = (np.asarray(jax.nn.softmax(shown @ kernel + bias)) - one_hot) / len(
            shown
        )
        kernel, bias = kernel - 0.5 * shown.T @ slope, bias - 0.5 * slope.sum(0)
    np.testing.assert_allclose(outputs, asked @ kernel + bias, atol=1e-5)


def test_a_head_that_was_trained_before_is_left_alone():
    support, query = _task()
    classifier = mj.classifier(mj.models.mlp([FEATURES], 7))
    meta = jax.jit(classifier.init)(jax.random.key(0), support.inputs)
    learner = LEARNERS["baseline"](WAYS)
    outputs = learner.predict(meta, learner.adapt(None, meta, support), query)
    assert outputs.shape == (len(query), WAYS)
    before = mj.models.mlp([FEATURES], 7).apply(meta, query)
    unchanged = classifier.predict(meta, classifier.adapt(None, meta, support), query)
    np.testing.assert_array_equal(unchanged, before)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_class_without_support_is_never_predicted(name):
    support, _ = _task()
    hidden = support._replace(mask=support.targets != 1)
    _, outputs, _ = _solve(LEARNERS[name](WAYS), support=hidden)
    assert (outputs.argmax(axis=1) != 1).all()
    for targets in (0, 1):
        assert np.isfinite(losses.cross_entropy(outputs, np.full(5, targets)))


@pytest.mark.parametrize("name", LEARNERS)
def test_params_do_not_depend_on_the_ways(name):
    inputs = _task()[0].inputs
    shapes = [
        jax.eval_shape(LEARNERS[name](ways).init, jax.random.key(0), inputs)
        for ways in (3, 20)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mj.meta_baseline(EMBEDDING, 3, scale=0), "scale must be positive"),
        (
            lambda: mj.metaoptnet(EMBEDDING, 3, regularization=0),
            "regularization must be positive",
        ),
        (
            lambda: mj.metaoptnet(EMBEDDING, 3, head="ridge"),
            "choose one of logistic, svm",
        ),
        (
            lambda: mj.baseline(EMBEDDING, None, None, 1, ways=3, head="svm"),
            "choose one of linear, cosine",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
