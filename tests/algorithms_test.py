"""The laws that every meta-learner must satisfy; what each is alone, in families_test.

A new algorithm adds one line to LEARNERS.
"""

from functools import cache, partial

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

WARPED = mj.models.mlp([6], WAYS, warp=True)
EMBEDDING, RELATION = mj.models.mlp([6], None), mj.models.mlp([5], 1)
LOSS = losses.cross_entropy

# By the number of inner steps.
LEARNERS = {
    "maml": lambda steps: mj.maml(MODEL, LOSS, SGD, steps),
    "fomaml": lambda steps: mj.fomaml(MODEL, LOSS, SGD, steps),
    "reptile": lambda steps: mj.reptile(MODEL, LOSS, SGD, steps),
    "anil": lambda steps: mj.anil(MODEL, LOSS, SGD, steps),
    "boil": lambda steps: mj.boil(MODEL, LOSS, SGD, steps),
    "meta_sgd": lambda steps: mj.meta_sgd(MODEL, LOSS, steps),
    "meta_curvature": lambda steps: mj.meta_curvature(MODEL, LOSS, SGD, steps),
    "cavia": lambda steps: mj.cavia(MODEL, LOSS, SGD, steps, num_context=2),
    "imaml": lambda steps: mj.imaml(MODEL, LOSS, SGD, steps),
    "maml_plus_plus": lambda steps: mj.maml_plus_plus(MODEL, LOSS, steps, rate=0.1),
    "warpgrad": lambda steps: mj.warpgrad(WARPED, LOSS, steps, rate=0.1),
    "protonet": lambda steps: mj.protonet(EMBEDDING, WAYS),
    "matching_net": lambda steps: mj.matching_net(EMBEDDING, WAYS),
    "relation_net": lambda steps: mj.relation_net(EMBEDDING, RELATION, WAYS),
    "r2d2": lambda steps: mj.r2d2(EMBEDDING, WAYS),
    "metaoptnet": lambda steps: mj.metaoptnet(EMBEDDING, WAYS),
    "meta_baseline": lambda steps: mj.meta_baseline(EMBEDDING, WAYS),
    "baseline": lambda steps: mj.baseline(EMBEDDING, LOSS, SGD, steps, ways=WAYS),
}
STEPLESS = {
    "protonet",
    "matching_net",
    "relation_net",
    "r2d2",
    "metaoptnet",
    "meta_baseline",
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
    return jax.jit(learner.init)(jax.random.key(0), task.support.inputs), task


@partial(jax.jit, static_argnums=0)  # Operations one by one take longer to compile.
def predictions(learner, meta, task):
    adapted = learner.adapt(jax.random.key(2), meta, task.support)
    return learner.predict(meta, adapted, task.query.inputs)


@partial(jax.jit, static_argnums=0)
def meta_gradient(learner, meta, task):
    objective = mj.query_loss(learner, LOSS)
    return jax.grad(lambda m: objective(jax.random.key(2), m, task)[0])(meta)


def permuted_head(meta, order):
    """Gives the outputs of a linear head another order, if there is a head."""

    def permute(path, leaf):
        names = {getattr(part, "key", getattr(part, "name", None)) for part in path}
        is_head = "head" in names and "matrices" not in names
        return leaf[..., order] if is_head and leaf.shape[-1] == WAYS else leaf

    return jax.tree_util.tree_map_with_path(permute, meta)


@cache  # The laws share what is compiled for a learner.
def made(name, num_steps):
    return LEARNERS[name](num_steps)


@pytest.fixture(params=LEARNERS)
def learner(request):
    return made(request.param, 3)


def test_adapting_one_task_equals_adapting_it_among_many(learner):
    meta, _ = start(learner)
    tasks = draw_tasks(jax.random.key(3), random_task, jnp.arange(4))
    many = jax.jit(jax.vmap(lambda task: predictions(learner, meta, task)))(tasks)
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


def test_padding_changes_nothing(learner):
    meta, task = start(learner)
    support = task.support
    junk = 9 * jnp.ones((2, *support.inputs.shape[1:]))
    padded = mj.Batch(
        jnp.concatenate([junk, support.inputs]),
        jnp.concatenate([jnp.zeros(2, jnp.int32), support.targets]),
        jnp.arange(2 + len(support.targets)) >= 2,
    )
    np.testing.assert_allclose(
        predictions(learner, meta, task._replace(support=padded)),
        predictions(learner, meta, task),
        rtol=1e-4,
        atol=1e-5,
    )


# A relation that is not trained yet knows nothing of its pairs.
@pytest.mark.parametrize("name", sorted(STEPLESS - {"relation_net"}))
def test_adaptation_prefers_the_labels_of_the_support(name):
    learner = made(name, 3)
    meta, task = start(learner)
    again = task._replace(query=task.support)
    wrong = again.support._replace(targets=(again.support.targets + 1) % WAYS)
    after = predictions(learner, meta, again)
    misled = predictions(learner, meta, again._replace(support=wrong))
    assert LOSS(after, task.support.targets) < LOSS(misled, task.support.targets)


@pytest.mark.parametrize("name", [n for n in LEARNERS if n not in STEPLESS])
def test_inner_steps_lower_the_support_loss(name):
    learner, unadapting = made(name, 3), made(name, 0)
    meta, task = start(learner)
    again = task._replace(query=task.support)
    after, before = (predictions(each, meta, again) for each in (learner, unadapting))
    assert LOSS(after, task.support.targets) < LOSS(before, task.support.targets)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(learner, dtype):
    meta, task = start(learner)
    meta, task = jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, (meta, task)
    )
    adapted = jax.jit(learner.adapt)(jax.random.key(2), meta, task.support)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(adapted)} - {jnp.dtype(bool)}
    assert dtypes == {jnp.dtype(dtype)}
    assert predictions(learner, meta, task).dtype == dtype


def test_meta_gradient_is_finite_and_not_zero(learner):
    meta, task = start(learner)
    for leaf in jax.tree.leaves(meta_gradient(learner, meta, task)):
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


BACKPROP, WEIGHTS = mj.estimators.backprop, jnp.full(3, 1 / 3)
# Forms that train otherwise than by the query loss after the last step.
TRAINED = {
    "maml_plus_plus": BACKPROP(
        mj.multi_step_loss(
            mj.maml_plus_plus(MODEL, LOSS, 3, rate=0.1, every_step=True), LOSS, WEIGHTS
        )
    ),
    "warpgrad": BACKPROP(
        mj.multi_step_loss(
            mj.warpgrad(WARPED, LOSS, 3, rate=0.1, every_step=True), LOSS, WEIGHTS
        )
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_the_forms_that_are_trained_have_finite_gradients_and_learn(name):
    optimizer, estimator, learner = optax.adam(1e-2), TRAINED[name], made(name, 3)
    state = mj.init_state(jax.random.key(0), learner, optimizer, random_task)
    tasks = draw_tasks(jax.random.key(1), random_task, jnp.arange(2))
    _, grads = jax.jit(estimator)(jax.random.key(2), state.meta, tasks)
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
    step = mj.train_step(estimator, optimizer)
    _, metrics = mj.train(step, state, random_task, num_tasks=8, num_steps=180)
    assert np.mean(metrics["loss"][-60:]) < np.mean(metrics["loss"][:60])


@pytest.mark.parametrize(
    "make",
    [
        lambda adjoint: mj.maml(MODEL, LOSS, SGD, 3, adjoint=adjoint),
        lambda adjoint: mj.meta_sgd(MODEL, LOSS, 3, adjoint=adjoint),
        lambda adjoint: mj.meta_curvature(MODEL, LOSS, SGD, 3, adjoint=adjoint),
        lambda adjoint: mj.imaml(MODEL, LOSS, SGD, 3, adjoint=adjoint),
        lambda adjoint: mj.maml_plus_plus(MODEL, LOSS, 3, rate=0.1, adjoint=adjoint),
    ],
    ids=["maml", "meta_sgd", "meta_curvature", "imaml", "maml_plus_plus"],
)
def test_part_of_the_params_adapts_under_any_adjoint(make):
    unroll, mixed_mode = mj.adjoints.unroll(), mj.adjoints.mixed_mode()
    grads = []
    for adjoint in (unroll, mixed_mode):
        learner = make(mj.adjoints.only("head/*", adjoint))
        meta, task = start(learner)
        params = getattr(meta, "params", meta)
        adapted = jax.jit(learner.adapt)(jax.random.key(2), meta, task.support)
        jax.tree.map(
            np.testing.assert_array_equal, adapted["Dense_0"], params["Dense_0"]
        )
        assert not np.allclose(adapted["head"]["kernel"], params["head"]["kernel"])
        grads.append(meta_gradient(learner, meta, task))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *grads)
