"""The laws that every meta-learner must satisfy, and an oracle for MAML.

A new algorithm adds one line to LEARNERS.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import checkpoints, losses
from metajax.training import draw_tasks

WAYS, SHOTS, QUERIES = 3, 2, 2
MODEL = mj.models.mlp([6], WAYS)
SGD = optax.sgd(0.1, momentum=0.5)

LEARNERS = {
    "maml": mj.maml(MODEL, losses.cross_entropy, SGD, 3),
    "fomaml": mj.fomaml(MODEL, losses.cross_entropy, SGD, 3),
    "anil": mj.anil(MODEL, losses.cross_entropy, SGD, 3),
    "boil": mj.boil(MODEL, losses.cross_entropy, SGD, 3),
    "meta_sgd": mj.meta_sgd(MODEL, losses.cross_entropy, 3),
}


def random_task(key):
    """A task of three noisy clusters."""
    centre_key, support_key, query_key = jax.random.split(key, 3)
    centres = jax.random.normal(centre_key, (WAYS, 5))

    def batch(key, each):
        labels = jnp.repeat(jnp.arange(WAYS), each)
        noise = 0.3 * jax.random.normal(key, (len(labels), 5))
        return mj.Batch(centres[labels] + noise, labels)

    return mj.Task(batch(support_key, SHOTS), batch(query_key, QUERIES))


def start(learner):
    task = random_task(jax.random.key(1))
    return learner.init(jax.random.key(0), task.support.inputs), task


def predictions(learner, meta, task):
    adapted = learner.adapt(jax.random.key(2), meta, task.support)
    return learner.predict(meta, adapted, task.query.inputs)


def permuted_head(meta, order):
    """Gives the outputs of a linear head another order, if there is a head."""

    def permute(path, leaf):
        is_head = any(getattr(part, "key", None) == "head" for part in path)
        return leaf[..., order] if is_head else leaf

    return jax.tree_util.tree_map_with_path(permute, meta)


@pytest.fixture(params=LEARNERS)
def learner(request):
    return LEARNERS[request.param]


def test_adapting_one_task_equals_adapting_it_among_many(learner):
    meta, _ = start(learner)
    tasks = draw_tasks(jax.random.key(3), random_task, jnp.arange(4))
    many = jax.vmap(lambda task: predictions(learner, meta, task))(tasks)
    for i in range(4):
        one = predictions(learner, meta, jax.tree.map(lambda x: x[i], tasks))  # noqa: B023
        np.testing.assert_allclose(many[i], one, rtol=1e-4, atol=1e-5)


def test_permuting_labels_permutes_predictions(learner):
    meta, task = start(learner)
    order = jnp.array([2, 0, 1])  # Label l becomes order[l].
    support = task.support._replace(targets=order[task.support.targets])
    inverse = jnp.argsort(order)
    before = predictions(learner, meta, task)
    after = predictions(
        learner, permuted_head(meta, inverse), task._replace(support=support)
    )
    np.testing.assert_allclose(after, before[:, inverse], rtol=1e-4, atol=1e-5)
    assert not np.allclose(after, before, atol=1e-3)


def test_the_order_of_support_examples_does_not_matter(learner):
    meta, task = start(learner)
    reversed_support = jax.tree.map(lambda x: x[::-1], task.support)
    np.testing.assert_allclose(
        predictions(learner, meta, task._replace(support=reversed_support)),
        predictions(learner, meta, task),
        rtol=1e-4,
        atol=1e-5,
    )


def test_adaptation_helps(learner):
    meta, task = start(learner)
    adapted = predictions(learner, meta, task)
    params = getattr(meta, "params", meta)
    unadapted = learner.predict(meta, params, task.query.inputs)
    loss = losses.cross_entropy
    assert loss(adapted, task.query.targets) < loss(unadapted, task.query.targets)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(learner, dtype):
    meta, task = start(learner)
    meta, task = jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, (meta, task)
    )
    adapted = learner.adapt(jax.random.key(2), meta, task.support)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapted)} == {jnp.dtype(dtype)}
    assert predictions(learner, meta, task).dtype == dtype


def test_meta_gradient_is_finite_and_not_zero(learner):
    meta, task = start(learner)
    objective = mj.query_loss(learner, losses.cross_entropy)
    grads, _ = jax.grad(objective, argnums=1, has_aux=True)(
        jax.random.key(2), meta, task
    )
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_training_lowers_the_loss_and_never_traces_again(learner):
    traces = []

    def sampler(key):
        traces.append(key)
        return random_task(key)

    optimizer = optax.adam(1e-2)
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.cross_entropy))
    step = mj.train_step(meta_grad, optimizer)
    state = mj.init_state(jax.random.key(0), learner, optimizer, sampler)
    means, traced = [], []
    for _ in range(3):
        traces.clear()
        state, metrics = mj.train(step, state, sampler, num_tasks=8, num_steps=60)
        means.append(np.mean(metrics["loss"]))
        traced.append(len(traces))
    assert traced[0] > 0 and traced[1:] == [0, 0]
    assert means[2] < means[0]


def test_meta_parameters_survive_a_checkpoint(learner, tmp_path):
    meta, task = start(learner)
    checkpoints.save(tmp_path / "checkpoints", 3, meta)
    restored = checkpoints.restore(tmp_path / "checkpoints", meta)
    jax.tree.map(np.testing.assert_array_equal, restored, meta)


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_equals_a_plain_loop_written_out(first_order):
    """An oracle with its own model, loss and loops: no scan, vmap, optax or flax."""
    rate, num_steps, num_tasks = 0.3, 2, 3
    tasks = draw_tasks(jax.random.key(5), random_task, jnp.arange(num_tasks))
    meta, _ = start(LEARNERS["maml"])

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
    expected_loss, expected = jax.value_and_grad(outer)(weights)

    make = mj.fomaml if first_order else mj.maml
    learner = make(MODEL, losses.cross_entropy, optax.sgd(rate), num_steps)
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, losses.cross_entropy))
    (value, _), grads = meta_grad(jax.random.key(0), meta, tasks)
    np.testing.assert_allclose(value, expected_loss, rtol=1e-5)
    for layer, (kernel, bias) in zip([grads["Dense_0"], grads["head"]], expected):
        np.testing.assert_allclose(layer["kernel"], kernel, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(layer["bias"], bias, rtol=1e-3, atol=1e-6)


def meta_gradient(learner, meta, task):
    objective = mj.query_loss(learner, losses.cross_entropy)
    return jax.grad(lambda meta: objective(jax.random.key(0), meta, task)[0])(meta)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_meta_sgd_with_equal_rates_is_maml():
    learner = mj.meta_sgd(MODEL, losses.cross_entropy, 3, initial_rates=(0.1, 0.1))
    maml = mj.maml(MODEL, losses.cross_entropy, optax.sgd(0.1), 3)
    meta, task = start(learner)
    assert_close(predictions(learner, meta, task), predictions(maml, meta.params, task))
    gradient = meta_gradient(learner, meta, task)
    assert_close(gradient.params, meta_gradient(maml, meta.params, task))


def test_the_gradient_of_a_rate_is_minus_the_gradients_before_and_after():
    """For one step, d loss(params - rate * g) / d rate = -g * loss'(adapted)."""
    learner = mj.meta_sgd(MODEL, losses.cross_entropy, 1)
    meta, task = start(learner)
    gradient = jax.grad(losses.of_model(MODEL, losses.cross_entropy))
    before = gradient(meta.params, task.support)
    adapted = learner.adapt(jax.random.key(0), meta, task.support)
    after = gradient(adapted, task.query)
    expected = jax.tree.map(lambda a, b: -a * b, before, after)
    assert_close(meta_gradient(learner, meta, task).rates, expected)


def test_initial_rates_fill_their_range_and_must_be_positive():
    meta, _ = start(mj.meta_sgd(MODEL, losses.cross_entropy, 1))
    rates = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(meta.rates)])
    assert 0.005 <= rates.min() < 0.02 and 0.08 < rates.max() <= 0.1
    with pytest.raises(ValueError, match="must be positive, the least first"):
        mj.meta_sgd(MODEL, losses.cross_entropy, 1, initial_rates=(0.1, 0.005))


@pytest.mark.parametrize("make, adapts_head", [(mj.anil, True), (mj.boil, False)])
def test_anil_and_boil_are_meta_sgd_without_rates_elsewhere(make, adapts_head):
    learner = make(MODEL, losses.cross_entropy, optax.sgd(0.1), 3)
    meta, task = start(learner)

    def rate(path, leaf):
        is_head = path[0].key == "head"
        return jnp.full_like(leaf, 0.1 if is_head == adapts_head else 0.0)

    rates = jax.tree.map_with_path(rate, meta)
    with_rates = mj.meta_sgd(MODEL, losses.cross_entropy, 3)
    both = type(start(with_rates)[0])(meta, rates)
    assert_close(predictions(learner, meta, task), predictions(with_rates, both, task))
    expected = meta_gradient(with_rates, both, task).params
    assert_close(meta_gradient(learner, meta, task), expected)
    adapted = learner.adapt(jax.random.key(0), meta, task.support)
    for name in meta:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), adapted, meta)[name]
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
    adapted = learner.adapt(jax.random.key(0), meta, support)
    features = inputs @ body
    best = np.linalg.lstsq(features, targets, rcond=None)[0]
    shrink = np.eye(2) - 2 * 0.05 * features.T @ features / 8
    expected = best + np.linalg.matrix_power(shrink, 7) @ (head - best)
    np.testing.assert_allclose(adapted["head"], expected, rtol=1e-5)


def test_a_part_that_is_not_there_is_answered_with_those_that_are():
    learner = mj.anil(MODEL, losses.cross_entropy, SGD, 1, head="classifier/*")
    meta, task = start(learner)
    with pytest.raises(ValueError, match="'classifier/\\*': there are .*head/kernel"):
        predictions(learner, meta, task)
