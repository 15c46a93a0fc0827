"""Text encoders count, read and ignore padding as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.text import bag, text_cnn, text_transformer

VOCABULARY, LENGTH = 12, 7
IDF = np.linspace(0.5, 3, VOCABULARY, dtype=np.float32)
MODELS = {
    "bag": lambda outputs: bag(VOCABULARY, outputs, idf=IDF),
    "projection": lambda outputs: bag(VOCABULARY, outputs, projection=3, idf=IDF),
    "cnn": lambda outputs: text_cnn(VOCABULARY, outputs, width=6, layers=2),
    "transformer": lambda outputs: text_transformer(
        VOCABULARY, outputs, width=6, layers=1, heads=2, length=LENGTH + 2
    ),
}
models = pytest.mark.parametrize("name", MODELS)


def _ids():
    """Five texts, of lengths 7, 5, 3, 1 and 0, with ids that repeat."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (5, LENGTH))
    return np.where(np.arange(LENGTH) < np.array([[7], [5], [3], [1], [0]]), ids, 0)


def _params(model, ids, scale=0.5):
    """Params away from their initial zeros, where nothing cancels."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (scale * random.normal(size=leaf.shape)).astype(np.float32), shapes
    )


def _tf_idf(ids, weights):
    counts = np.zeros((len(ids), VOCABULARY))
    for row, text in zip(counts, ids):
        for token in text[text > 0]:
            row[token] += 1
    features = np.log1p(counts) * weights
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def test_an_untrained_bag_is_tf_idf_in_any_order_of_ids():
    model, ids = bag(VOCABULARY, idf=IDF), _ids()
    params = jax.jit(model.init)(jax.random.key(0), ids)
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(params, ids), _tf_idf(ids, IDF), atol=1e-5)
    np.testing.assert_allclose(apply(params, ids[:, ::-1]), apply(params, ids))
    even = bag(VOCABULARY).init(jax.random.key(0), ids)
    np.testing.assert_allclose(apply(even, ids), _tf_idf(ids, 1), atol=1e-5)


def test_the_projection_adds_to_how_texts_compare():
    model, ids = bag(VOCABULARY, projection=3, idf=IDF), _ids()
    params = _params(model, ids)
    features = np.asarray(jax.jit(model.apply)(params, ids))
    plain = _tf_idf(ids, np.exp(params["log_weights"]))
    metric = np.eye(VOCABULARY) + params["projection"] @ params["projection"].T
    products = plain @ metric @ plain.T
    norms = np.sqrt(np.diag(products)) + 1e-9
    np.testing.assert_allclose(
        features @ features.T, products / norms / norms[:, None], atol=1e-5
    )
    untrained = jax.jit(model.init)(jax.random.key(0), ids)
    np.testing.assert_allclose(
        jax.jit(model.apply)(untrained, ids)[:, :VOCABULARY],
        _tf_idf(ids, IDF),
        atol=0.01,
    )


def test_a_convolution_reads_three_words_at_a_time():
    model, ids = text_cnn(VOCABULARY, None, width=6), _ids()
    params = _params(model, ids)
    kernel, bias = params["Conv_0"]["kernel"][:, 0], params["Conv_0"]["bias"]
    features = jax.jit(model.apply)(params, ids)
    for text, actual in zip(ids, features):
        embedded = params["tokens"]["embedding"][text[text > 0]]
        around = np.pad(embedded, ((1, 1), (0, 0)))
        places = [
            sum(around[i + j] @ kernel[j] for j in range(3)) + bias
            for i in range(len(embedded))
        ]
        expected = np.max(np.maximum(places, 0), axis=0) if places else np.zeros(6)
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_transformer_sees_order_and_both_directions():
    model = MODELS["transformer"](None)
    ids = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3, 5], [6, 2, 3, 4]])
    features = np.asarray(jax.jit(model.apply)(_params(model, ids), ids))
    differences = np.abs(features[:1] - features[1:]).max(axis=1)
    assert (differences > 0.01).all()


@models
def test_padding_changes_nothing(name):
    model, ids = MODELS[name](4), _ids()
    params, apply = _params(model, ids), jax.jit(model.apply)
    outputs = np.asarray(apply(params, ids))
    longer, cut = np.pad(ids, ((0, 0), (0, 2))), ids[2:, :3]
    np.testing.assert_allclose(apply(params, longer), outputs, atol=1e-5)
    np.testing.assert_allclose(apply(params, cut), outputs[2:], atol=1e-5)
    # The texts differ by more than rounding.
    assert np.abs(outputs[0] - outputs[1:]).max(axis=1).min() > 1e-3


@models
def test_a_text_of_padding_alone_has_features_of_zero_and_finite_derivatives(name):
    model, ids = MODELS[name](None), np.zeros((2, LENGTH), int)
    params = _params(model, ids)

    @jax.jit
    def derivatives(params):
        def loss(params):
            return jnp.sum(model.apply(params, ids))

        def slope(params):
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(params)))

        return model.apply(params, ids), jax.grad(loss)(params), jax.grad(slope)(params)

    features, *both = derivatives(params)
    np.testing.assert_array_equal(features, np.zeros_like(features))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(both))


@models
def test_texts_do_not_see_each_other_and_tasks_have_params_of_their_own(name):
    """As under `vmap` in a chunk of tasks, with a derivative through the params."""
    model, ids = MODELS[name](None), _ids()
    tasks = [_params(model, ids, scale) for scale in (0.5, 1.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)

    def norms(params, ids):
        return jnp.sum(jnp.square(model.apply(params, ids)), axis=1)

    together = jax.jit(jax.vmap(jax.value_and_grad(lambda p: norms(p, ids).sum())))
    values, grads = together(stacked)
    alone = jax.jit(jax.value_and_grad(lambda p, text: norms(p, text).sum()))
    for index, params in enumerate(tasks):
        each = [alone(params, text[None]) for text in ids]
        np.testing.assert_allclose(values[index], sum(v for v, _ in each), rtol=1e-4)
        expected = jax.tree.map(lambda *leaves: sum(leaves), *[g for _, g in each])
        jax.tree.map(
            lambda all_tasks, leaf, index=index: np.testing.assert_allclose(
                all_tasks[index], leaf, rtol=1e-3, atol=1e-4
            ),
            grads,
            expected,
        )


@models
def test_outputs_have_the_dtype_of_params_and_a_linear_head(name):
    ids, whole = _ids(), MODELS[name](4)
    params = _params(whole, ids)
    halved = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    assert jax.eval_shape(whole.apply, halved, ids).dtype == jnp.bfloat16
    head = params["head"]
    body = {layer: leaves for layer, leaves in params.items() if layer != "head"}

    @jax.jit
    def both(params, body):
        return whole.apply(params, ids), MODELS[name](None).apply(body, ids)

    outputs, features = both(params, body)
    expected = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@models
@pytest.mark.parametrize(
    "ids", [np.zeros((2, 3), np.float32), np.zeros((2, 3, 1), int)]
)
def test_what_are_no_ids_is_refused(name, ids):
    with pytest.raises(ValueError, match=r"token ids \[examples, length\].*got"):
        jax.eval_shape(MODELS[name](4).init, jax.random.key(0), ids)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: bag(0), "bag: sizes must be positive: got vocabulary=0"),
        (lambda: bag(9, 0), "outputs=0"),
        (lambda: bag(9, projection=-1), "projection must be 0 or more: got -1"),
        (lambda: bag(9, idf=np.ones(8)), r"9 positive weights: got \(8,\)"),
        (lambda: bag(9, idf=np.zeros(9)), "the smallest 0"),
        (lambda: text_cnn(9, 2, width=0), "text_cnn: .* got width=0"),
        (lambda: text_transformer(9, 2, layers=0), "text_transformer: .* layers=0"),
        (lambda: text_transformer(9, 2, width=9), "4 heads must divide the width, 9"),
    ],
)
def test_sizes_that_make_no_model_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_texts_beyond_the_positions_are_refused():
    model = text_transformer(VOCABULARY, None, length=4)
    with pytest.raises(ValueError, match="length 4 at most: got .*greater length"):
        model.init(jax.random.key(0), np.ones((1, 5), int))
