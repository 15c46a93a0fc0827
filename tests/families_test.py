"""What each gradient-based algorithm is: closed forms, and identities between them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import learners, losses, trees
from tests.algorithms_test import (
    MODEL,
    WARPED,
    draw,
    predictions,
    random_task,
    solved,
    solved_and_gradient,
    start,
)

LOSS, RATE = losses.cross_entropy, 0.1
LINEAR = mj.Model(
    init=lambda key, inputs: jax.random.normal(key, inputs.shape[1:]),
    apply=lambda params, inputs: inputs @ params,
)


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_equals_a_plain_loop_written_out(first_order):
    """An oracle with its own model, loss and loops: no scan, vmap, optax or flax."""
    rate, num_steps, num_tasks = 0.3, 2, 2
    tasks = draw(jax.random.key(5), random_task, np.arange(num_tasks))
    meta, _ = start(mj.maml(MODEL, LOSS, optax.sgd(RATE), 1))

    def loss(weights, inputs, labels):
        (w1, b1), (w2, b2) = weights
        hidden = jnp.maximum(inputs @ w1 + b1[None], 0)
        logits = hidden @ w2 + b2[None]
        likelihoods = jnp.exp(logits) / jnp.exp(logits).sum(1, keepdims=True)
        return -sum(
            jnp.log(likelihoods[i, labels[i]]) for i in range(len(labels))
        ) / len(labels)

    def outer(weights):
        total = 0.0
        for i in range(num_tasks):
            support, query = jax.tree.map(lambda x: x[i], tasks)  # noqa: B023
            fast = weights
            for _ in range(num_steps):
                grads = jax.grad(loss)(fast, support.inputs, support.targets)
                if first_order:
                    grads = jax.lax.stop_gradient(grads)
                fast = jax.tree.map(lambda w, g: w - rate * g, fast, grads)
            total += loss(fast, query.inputs, query.targets)
        return total / num_tasks

    layers = [meta["Dense_0"], meta["head"]]
    weights = [(layer["kernel"], layer["bias"]) for layer in layers]
    expected_loss, expected = jax.jit(jax.value_and_grad(outer))(weights)

    make = mj.fomaml if first_order else mj.maml
    learner = make(MODEL, LOSS, optax.sgd(rate), num_steps)
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, LOSS))
    (value, _), grads = jax.jit(meta_grad)(jax.random.key(0), meta, tasks)
    np.testing.assert_allclose(value, expected_loss, rtol=1e-5)
    for layer, (kernel, bias) in zip([grads["Dense_0"], grads["head"]], expected):
        np.testing.assert_allclose(layer["kernel"], kernel, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(layer["bias"], bias, rtol=1e-3, atol=1e-6)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


@cache  # What is compiled for it is of use to several tests.
def plain_maml(num_steps):
    return mj.maml(MODEL, LOSS, optax.sgd(RATE), num_steps)


def assert_is_maml(learner, num_steps):
    """In predictions, and in the gradient of the params among the meta-parameters."""
    meta, task = start(learner)
    *actual, gradient = solved_and_gradient(learner, meta, task)
    expected = solved_and_gradient(plain_maml(num_steps), meta.params, task)
    assert_close((*actual, gradient.params), expected)


adapt = jax.jit(lambda learner, *args: learner.adapt(*args), static_argnums=0)
model_gradient = jax.jit(jax.grad(losses.of_model(MODEL, LOSS)))


def test_meta_sgd_with_equal_rates_is_maml():
    assert_is_maml(mj.meta_sgd(MODEL, LOSS, 3, initial_rates=(RATE, RATE)), 3)


def test_the_gradient_of_a_rate_is_minus_the_gradients_before_and_after():
    """For one step, d loss(params - rate * g) / d rate = -g * loss'(adapted)."""
    learner = mj.meta_sgd(MODEL, LOSS, 1)
    meta, task = start(learner)
    before = model_gradient(meta.params, task.support)
    adapted, _, gradient = solved_and_gradient(learner, meta, task)
    after = model_gradient(adapted, task.query)
    expected = jax.tree.map(lambda a, b: -a * b, before, after)
    assert_close(gradient.rates, expected)


def test_initial_rates_fill_their_range_and_must_be_positive():
    meta, _ = start(mj.meta_sgd(MODEL, LOSS, 1))
    rates = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(meta.rates)])
    assert 0.005 <= rates.min() < 0.02 and 0.08 < rates.max() <= 0.1
    with pytest.raises(ValueError, match="must be positive, the least first"):
        mj.meta_sgd(MODEL, LOSS, 1, initial_rates=(0.1, 0.005))


META_SGD = mj.meta_sgd(MODEL, LOSS, 3)


@pytest.mark.parametrize("make, adapts_head", [(mj.anil, True), (mj.boil, False)])
def test_anil_and_boil_are_meta_sgd_without_rates_elsewhere(make, adapts_head):
    learner = make(MODEL, LOSS, optax.sgd(0.1), 3)
    meta, task = start(learner)

    def rate(path, leaf):
        is_head = path[0].key == "head"
        return np.full(leaf.shape, 0.1 if is_head == adapts_head else 0.0, leaf.dtype)

    rates = jax.tree.map_with_path(rate, meta)
    both = start(META_SGD)[0]._replace(params=meta, rates=rates)
    *expected, gradient = solved_and_gradient(META_SGD, both, task)
    adapted, *actual = solved_and_gradient(learner, meta, task)
    assert_close((adapted, *actual), (*expected, gradient.params))
    for name in meta:
        same = jax.tree.map(np.array_equal, adapted, meta)[name]
        assert all(jax.tree.leaves(same)) == ((name == "head") != adapts_head)


def test_anil_on_squared_error_descends_to_its_closed_form():
    """After t steps: h[t] = h* + (I - 2 rate F'F / n)^t (h[0] - h*)."""
    rng = np.random.default_rng(0)
    body, head = rng.normal(size=(3, 2)), rng.normal(size=(2,))
    inputs, targets = rng.normal(size=(8, 3)), rng.normal(size=(8,))
    model = mj.Model(
        init=lambda key, inputs: None,
        apply=lambda params, inputs: inputs @ params["body"] @ params["head"],
    )
    learner = mj.anil(model, losses.squared_error, optax.sgd(0.05), 7, head="head")
    meta = jax.tree.map(jnp.float32, {"body": body, "head": head})
    support = mj.Batch(jnp.float32(inputs), jnp.float32(targets))
    adapted = jax.jit(learner.adapt)(jax.random.key(0), meta, support)
    features = inputs @ body
    best = np.linalg.lstsq(features, targets, rcond=None)[0]
    shrink = np.eye(2) - 2 * 0.05 * features.T @ features / 8
    expected = best + np.linalg.matrix_power(shrink, 7) @ (head - best)
    np.testing.assert_allclose(adapted["head"], expected, rtol=1e-5)


def test_a_part_that_is_not_there_is_answered_with_those_that_are():
    learner = mj.anil(MODEL, LOSS, optax.sgd(RATE), 1, head="classifier/*")
    meta, task = start(learner)
    with pytest.raises(ValueError, match="'classifier/\\*': there are .*head/kernel"):
        predictions(learner, meta, task)


@pytest.mark.parametrize("rate_per", ["leaf", "model"])
def test_rates_for_leaves_or_the_model_are_equal_rates_for_parameters(rate_per):
    learner = mj.meta_sgd(MODEL, LOSS, 3, rate_per=rate_per)
    meta, task = start(learner)
    shapes = {leaf.shape for leaf in jax.tree.leaves(meta.rates)}
    assert shapes == {()} and 0.005 <= min(jax.tree.leaves(meta.rates))
    if rate_per == "leaf":
        full = jax.tree.map(np.full_like, meta.params, meta.rates)
    else:
        full = jax.tree.map(lambda leaf: np.full_like(leaf, meta.rates), meta.params)
    expected = predictions(META_SGD, meta._replace(rates=full), task)
    assert_close(predictions(learner, meta, task), expected)


def steps_written_out(params, task, rates):
    """Gradient descent at a rate for each step, without a loop of ours."""
    for rate in rates:
        grads = model_gradient(params, task.support)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)  # noqa: B023
    return jax.jit(MODEL.apply)(params, task.query.inputs)


def test_rates_of_each_step_are_used_in_their_order_and_the_last_one_again():
    meta, task = start(mj.meta_sgd(MODEL, LOSS, 2, rate_per="model", per_step=True))
    meta = meta._replace(rates=np.array([0.1, 0.4], np.float32))
    for num_steps, rates in ((1, [0.1]), (2, [0.1, 0.4]), (3, [0.1, 0.4, 0.4])):
        learner = mj.meta_sgd(MODEL, LOSS, num_steps, rate_per="model", per_step=True)
        expected = steps_written_out(meta.params, task, rates)
        assert_close(predictions(learner, meta, task), expected)


@pytest.mark.parametrize(
    "make, adapted",
    [
        (partial(mj.meta_sgd, initial_rates=(RATE, RATE)), "*"),
        (partial(mj.maml_plus_plus, rate=RATE), "*"),
        (partial(mj.warpgrad, rate=RATE, warp="head/*"), "Dense_*"),
    ],
)
def test_cut_gradients_are_those_of_an_optimizer_that_cuts_them(make, adapted):
    cut, only = optax.chain(optax.clip(0.01), optax.sgd(RATE)), mj.adjoints.only
    plain, cutting = (
        mj.maml(MODEL, LOSS, each, 3, adjoint=only(adapted, mj.adjoints.unroll()))
        for each in (optax.sgd(RATE), cut)
    )
    meta, task = start(plain)
    expected = predictions(cutting, meta, task)
    assert np.abs(expected - predictions(plain, meta, task)).max() > 1e-3
    learner = make(MODEL, LOSS, 3, clip=0.01)
    own, _ = start(learner)
    own = own._replace(params=meta) if hasattr(own, "params") else meta
    assert_close(predictions(learner, own, task), expected)


def test_gradients_are_cut_to_a_positive_size():
    with pytest.raises(ValueError, match="positive size: got clip=0"):
        learners.descend(RATE, clip=0.0)


def test_reptile_on_the_whole_support_adapts_like_first_order_maml():
    learner = mj.reptile(MODEL, LOSS, optax.adam(0.01, b1=0), 3, batch_size=100)
    meta, task = start(learner)
    expected = predictions(
        mj.fomaml(MODEL, LOSS, optax.adam(0.01, b1=0), 3), meta, task
    )
    assert_close(predictions(learner, meta, task), expected)


def test_reptile_sees_every_example_once_before_any_twice():
    """With the loss -params * input, a step of rate 1 adds the mean input of its batch."""
    model = mj.Model(
        init=lambda key, inputs: jnp.zeros(1),
        apply=lambda params, inputs: inputs * params[None],
    )

    def loss(outputs, targets, mask=None):
        return -jnp.mean(outputs)

    support = mj.Batch(2.0 ** np.arange(6)[:, None], np.zeros(6))

    def after(num_steps):
        learner = mj.reptile(model, loss, optax.sgd(2.0), num_steps, batch_size=2)
        keys = jax.random.split(jax.random.key(0), 5)
        each = jax.vmap(learner.adapt, (0, None, None))
        return np.ravel(jax.jit(each)(keys, np.zeros(1, np.float32), support))

    assert (after(3) == 63.0).all()  # The sum of all six, each in one batch of two.
    seen = set(after(1))
    assert all(bin(int(sums)).count("1") == 2 for sums in seen)
    assert len(seen) > 1


def test_reptile_that_keeps_its_state_trains_on_one_task_after_another():
    """As one Adam does, where the outer rate is 1 and there is one task a step."""
    adam = optax.adam(0.01, b1=0)
    learner = mj.reptile(MODEL, LOSS, adam, 2, keep_state=True)
    estimator = mj.estimators.displacement(learner, LOSS)
    step = jax.jit(mj.train_step(estimator, optax.sgd(1.0)))
    meta, task = start(learner)
    state = mj.TrainState(
        jnp.int32(0), jax.random.key(0), meta, optax.sgd(1.0).init(meta)
    )
    params, plain = meta.params, adam.init(meta.params)
    slope = jax.jit(jax.grad(losses.of_model(MODEL, LOSS)))
    for order in (np.s_[:], np.s_[::-1], np.s_[1:]):
        some = jax.tree.map(lambda x: x[order][None], task)  # noqa: B023
        state, _ = step(state, some)
        for _ in range(2):
            batch = jax.tree.map(lambda x: x[0], some.support)
            updates, plain = adam.update(slope(params, batch), plain, params)
            params = optax.apply_updates(params, updates)
        assert_close(state.meta.params, params)
    assert state.meta.state[0].count == 6


@pytest.mark.parametrize(
    "steps, size, message",
    [(1, 0, "batch_size must be at least 1"), (-1, 1, "num_steps must be at least 0")],
)
def test_reptile_refuses_empty_batches_and_negative_steps(steps, size, message):
    with pytest.raises(ValueError, match=message):
        mj.reptile(MODEL, LOSS, optax.sgd(RATE), steps, batch_size=size)


def test_cavia_takes_the_gradient_step_of_its_context():
    """Of a linear model: context = -rate * mean(2 (prediction - target)) * weights."""
    model = mj.models.mlp([], 1)
    learner = mj.cavia(model, losses.squared_error, optax.sgd(RATE), 1, num_context=2)
    rng = np.random.default_rng(0)
    inputs, targets = np.asarray(rng.normal(size=(2, 8, 1)), np.float32)
    meta = jax.device_get(jax.jit(learner.init)(jax.random.key(0), inputs))
    weights = meta["head"]["kernel"][:, 0]  # Of the input and of the context.
    errors = inputs[:, 0] * weights[0] - targets[:, 0]
    expected = -RATE * 2 * errors.mean() * weights[1:]
    batch = mj.Batch(inputs, targets)
    adapted, outputs = solved(learner, meta, mj.Task(batch, batch))
    assert_close(adapted.context, expected)
    shifted = inputs * weights[0] + expected @ weights[1:]
    assert_close(outputs, shifted)


def image_batch(seed=0):
    images = np.random.default_rng(seed).random((6, 16, 16, 1)).astype(np.float32)
    return mj.Batch(images, np.arange(6) % 3)


def test_cavia_modulates_the_features_of_a_convolutional_network():
    model, support = mj.models.conv4(3, width=4), image_batch()
    learner = mj.cavia(model, LOSS, optax.sgd(1.0), 2, num_context=3)
    images = support.inputs
    meta = jax.jit(learner.init)(jax.random.key(0), images)
    plain = jax.jit(model.apply)(meta, images)
    adapted = adapt(learner, jax.random.key(0), meta, support)
    predict = jax.jit(learner.predict)
    unmoved = adapted._replace(context=np.zeros(3, np.float32))
    assert_close(predict(meta, unmoved, images), plain)
    assert np.abs(adapted.context).max() > 0
    assert not np.allclose(predict(meta, adapted, images), plain, atol=1e-5)


def test_cavia_under_support_normalisation_keeps_queries_apart():
    model = mj.models.conv4(3, width=4, normalization="support")
    learner = mj.cavia(model, LOSS, optax.sgd(1.0), 1, num_context=3)
    support = image_batch()
    meta = jax.jit(learner.init)(jax.random.key(0), support.inputs)
    adapted = adapt(learner, jax.random.key(0), meta, support)

    @jax.jit
    def together_and_alone(images):
        predict = jax.tree_util.Partial(learner.predict, meta, adapted)
        return predict(images), predict(images[:1])

    together, alone = together_and_alone(support.inputs)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def regression_task(seed=0):
    rng = np.random.default_rng(seed)
    inputs = np.asarray(rng.normal(size=(2, 8, 3)), np.float32)
    targets = np.asarray(rng.normal(size=(2, 8)), np.float32)
    return mj.Task(*(mj.Batch(x, y) for x, y in zip(inputs, targets)))


def test_imaml_at_rest_is_the_proximal_minimum_with_its_analytic_gradient():
    """Ridge towards meta: (H + r I) w = 2 X'y / n + r meta, with H = 2 X'X / n."""
    strength, task = 0.7, regression_task()
    learner = mj.imaml(
        LINEAR,
        losses.squared_error,
        optax.sgd(RATE),
        400,
        regularization=strength,
        adjoint=mj.adjoints.implicit(mj.adjoints.cg(10)),
    )
    meta = np.array([1.0, -2.0, 0.5], np.float32)
    inputs, targets, _ = task.support
    hessian = 2 * inputs.T @ inputs / 8
    system = hessian + strength * np.eye(3)
    minimum = np.linalg.solve(system, 2 * inputs.T @ targets / 8 + strength * meta)
    adapted = adapt(learner, jax.random.key(0), meta, task.support)
    np.testing.assert_allclose(adapted, minimum, rtol=1e-4)
    inputs, targets, _ = task.query
    toward = 2 * inputs.T @ (inputs @ minimum - targets) / 8
    expected = strength * np.linalg.solve(system, toward)
    objective = mj.query_loss(learner, losses.squared_error)
    gradient = jax.jit(jax.grad(lambda m: objective(jax.random.key(0), m, task)[0]))
    np.testing.assert_allclose(gradient(meta), expected, rtol=1e-3)


def test_imaml_needs_a_positive_regularization():
    for strength in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="regularization must be positive"):
            mj.imaml(MODEL, LOSS, optax.sgd(RATE), 1, regularization=strength)


def test_meta_curvature_that_is_the_identity_is_maml():
    assert_is_maml(mj.meta_curvature(MODEL, LOSS, optax.sgd(RATE), 3), 3)


def test_meta_curvature_multiplies_each_axis_of_a_gradient():
    """A kernel [filters, inputs, outputs] by F[f, g] I[i, j] O[o, p] kernel[g, j, p]."""
    model, support = mj.models.conv4(3, width=2), image_batch()
    rng = np.random.default_rng(1)
    learner = mj.meta_curvature(model, LOSS, optax.sgd(RATE), 1)
    meta = jax.jit(learner.init)(jax.random.key(0), support.inputs)
    meta = jax.device_get(meta)._replace(
        matrices=jax.tree.map(
            lambda x: np.asarray(rng.normal(size=x.shape), np.float32), meta.matrices
        )
    )

    @jax.jit
    def gradient_and_adapted(meta):
        gradient = jax.grad(losses.of_model(model, LOSS))(meta.params, support)
        return gradient, learner.adapt(jax.random.key(0), meta, support)

    grads, adapted = jax.device_get(gradient_and_adapted(meta))
    kernel, filters = grads["Conv_1"]["kernel"], meta.matrices["Conv_1"]["kernel"]
    product = np.einsum("fg,ij,op,gjp->fio", *filters, kernel.reshape(9, 2, 2))
    expected = meta.params["Conv_1"]["kernel"] - RATE * product.reshape(3, 3, 2, 2)
    np.testing.assert_allclose(
        adapted["Conv_1"]["kernel"], expected, rtol=1e-4, atol=1e-6
    )
    (matrix,), bias = meta.matrices["head"]["bias"], grads["head"]["bias"]
    expected = meta.params["head"]["bias"] - RATE * matrix @ bias
    np.testing.assert_allclose(adapted["head"]["bias"], expected, rtol=1e-4, atol=1e-6)


def plain_plus_plus(num_steps, **switches):
    return mj.maml_plus_plus(MODEL, LOSS, num_steps, rate=RATE, **switches)


def test_maml_plus_plus_begins_as_maml():
    assert_is_maml(plain_plus_plus(3), 3)


def test_maml_plus_plus_switched_off_is_maml_with_no_other_parameters():
    learner = plain_plus_plus(3, learn_rates=False)
    meta, task = start(learner)
    assert trees.size(meta) == trees.size(meta.params)
    expected = solved_and_gradient(plain_maml(3), meta.params, task)[1]
    assert_close(predictions(learner, meta, task), expected)


def test_maml_plus_plus_takes_the_rate_of_leaf_and_step():
    learner = plain_plus_plus(2)
    meta, task = start(learner)
    assert {leaf.shape for leaf in jax.tree.leaves(meta.rates)} == {(2,)}
    rates = jax.tree.map(lambda leaf: np.array([leaf[0], 0.4], leaf.dtype), meta.rates)
    expected = steps_written_out(meta.params, task, [RATE, 0.4])
    assert_close(predictions(learner, meta._replace(rates=rates), task), expected)
    rates["head"]["bias"] = np.zeros(2, np.float32)
    adapted, _ = solved(learner, meta._replace(rates=rates), task)
    np.testing.assert_array_equal(adapted["head"]["bias"], meta.params["head"]["bias"])


def test_predictions_after_every_step_are_those_of_fewer_steps():
    learner = plain_plus_plus(3, every_step=True)
    meta, task = start(learner)
    outputs = predictions(learner, meta, task)
    assert outputs.shape == (3, 6, 3)
    for num_steps in (1, 2, 3):
        fewer = predictions(plain_plus_plus(num_steps), meta, task)
        assert_close(outputs[num_steps - 1], fewer)


def test_each_step_meets_its_own_normalization_which_does_not_adapt():
    """Of a linear model with a scale for each step, written out."""
    model = mj.Model(
        init=lambda key, inputs: {"weights": jnp.ones(3), "scale": jnp.float32(1)},
        apply=lambda params, inputs: params["scale"] * (inputs @ params["weights"]),
    )
    task, scales = regression_task(), np.array([0.5, 1.5], np.float32)

    def outputs(num_steps, **kwargs):
        learner = mj.maml_plus_plus(
            model,
            losses.squared_error,
            num_steps,
            rate=RATE,
            normalization="scale",
            **kwargs,
        )
        meta = learner.init(jax.random.key(0), task.support.inputs)
        own = {"weights": None, "scale": scales}
        meta = meta._replace(normalization=own)
        return solved(learner, meta, task)[1]

    (inputs, targets, _), weights, expected = task.support, np.ones(3), []
    for scale in (*scales, scales[-1]):
        errors = scale * (inputs @ weights) - targets
        weights = weights - RATE * 2 * scale * inputs.T @ errors / len(errors)
        expected.append(scale * (task.query.inputs @ weights))
    np.testing.assert_allclose(outputs(1), expected[0], rtol=1e-5)
    np.testing.assert_allclose(outputs(2, every_step=True), expected[:2], rtol=1e-5)
    np.testing.assert_allclose(outputs(3), expected[2], rtol=1e-5)
    unadapted = scales[0] * (task.query.inputs @ np.ones(3))
    np.testing.assert_allclose(outputs(0), unadapted, rtol=1e-5)


def test_maml_plus_plus_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="rate must be positive"):
        mj.maml_plus_plus(MODEL, LOSS, 1, rate=0.0)
    with pytest.raises(ValueError, match="every_step needs an inner step"):
        mj.maml_plus_plus(MODEL, LOSS, 0, rate=0.1, every_step=True)
    learner = mj.maml_plus_plus(MODEL, LOSS, 1, rate=0.1, normalization="Norm*")
    with pytest.raises(ValueError, match="Nothing matches 'Norm\\*': there are"):
        start(learner)


def test_warpgrad_adapts_all_but_the_warp_layers():
    learner = mj.warpgrad(WARPED, LOSS, 3, rate=RATE)
    meta, task = start(learner)

    def is_task(path):
        return not path.startswith("Warp")

    adjoint = mj.adjoints.only(is_task, mj.adjoints.unroll())
    maml = mj.maml(WARPED, LOSS, optax.sgd(RATE), 3, adjoint=adjoint)
    assert_close(predictions(learner, meta, task), predictions(maml, meta, task))


def test_warpgrad_differentiates_each_step_from_where_it_began():
    """Written out: the iterates are given, each takes one step, losses are averaged."""
    num_steps = 3
    learner = mj.warpgrad(WARPED, LOSS, num_steps, rate=RATE, every_step=True)
    meta, task = start(learner)
    weights = np.full(num_steps, 1 / num_steps, np.float32)
    objective = mj.multi_step_loss(learner, LOSS, weights)
    actual = jax.jit(
        jax.grad(lambda meta: objective(jax.random.key(0), meta, task)[0])
    )(meta)
    inner = losses.of_model(WARPED, LOSS)

    def step(params):
        grads = jax.grad(inner)(params, task.support)
        return {
            layer: leaves
            if layer.startswith("Warp")
            else jax.tree.map(lambda p, g: p - RATE * g, leaves, grads[layer])
            for layer, leaves in params.items()
        }

    points, step = [meta], jax.jit(step)
    for _ in range(num_steps):
        points.append(step(points[-1]))

    def loss_of_warp(warp):
        moved = [{**point, "Warp_0": warp} for point in points[:-1]]
        return sum(inner(step(point), task.query) for point in moved) / num_steps

    expected = jax.jit(jax.grad(loss_of_warp))(meta["Warp_0"])
    assert_close(actual["Warp_0"], expected)
    gradient = jax.jit(jax.grad(inner))
    first_order = [gradient(point, task.query) for point in points[1:]]
    expected = jax.tree.map(lambda *grads: sum(grads) / num_steps, *first_order)
    for layer in ("Dense_0", "head"):
        assert_close(actual[layer], expected[layer])


def test_warpgrad_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="rate must be positive"):
        mj.warpgrad(WARPED, LOSS, 1, rate=-1.0)
    with pytest.raises(ValueError, match="every_step needs an inner step"):
        mj.warpgrad(WARPED, LOSS, 0, rate=0.1, every_step=True)
    learner = mj.warpgrad(MODEL, LOSS, 1, rate=0.1)
    meta, task = start(learner)
    with pytest.raises(ValueError, match="Nothing matches 'Warp_\\*': there are"):
        predictions(learner, meta, task)
