"""The laws that every meta-learner must satisfy; what each is alone, in families_test.

A new algorithm adds one line to LEARNERS.
"""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.examples.own_learner import proto_maml
import metajax as mj
from metajax import checkpoints, losses
from metajax.streams import draw_tasks

WAYS, SHOTS, QUERIES, STEPS = 3, 2, 2, 3
MODEL = mj.models.mlp([6], WAYS)
SGD = optax.sgd(0.1, momentum=0.5)

WARPED = mj.models.mlp([6], WAYS, warp=True)
EMBEDDING, RELATION = mj.models.mlp([6], None), mj.models.mlp([5], 1)
GENERATOR = mj.models.mlp([4], None)
READER = mj.models.in_context_transformer(WAYS, width=8, layers=2, heads=2)
LOSS = losses.cross_entropy

# By the number of inner steps.
LEARNERS = {
    "maml": lambda steps: mj.maml(MODEL, LOSS, SGD, steps),
    "fomaml": lambda steps: mj.fomaml(MODEL, LOSS, SGD, steps),
    "reptile": lambda steps: mj.reptile(MODEL, LOSS, SGD, steps),
    "reptile_keeping": lambda steps: mj.reptile(
        MODEL, LOSS, SGD, steps, keep_state=True
    ),
    "anil": lambda steps: mj.anil(MODEL, LOSS, SGD, steps),
    "boil": lambda steps: mj.boil(MODEL, LOSS, SGD, steps),
    "meta_sgd": lambda steps: mj.meta_sgd(MODEL, LOSS, steps),
    "meta_curvature": lambda steps: mj.meta_curvature(MODEL, LOSS, SGD, steps),
    "cavia": lambda steps: mj.cavia(MODEL, LOSS, SGD, steps, num_context=2),
    "imaml": lambda steps: mj.imaml(MODEL, LOSS, SGD, steps),
    "learned_rule": lambda steps: mj.learned_rule(
        MODEL, LOSS, mj.rules.scheduled_adam(STEPS, rate=0.05, knots=2), steps
    ),
    "maml_plus_plus": lambda steps: mj.maml_plus_plus(MODEL, LOSS, steps, rate=0.1),
    "warpgrad": lambda steps: mj.warpgrad(WARPED, LOSS, steps, rate=0.1),
    "protonet": lambda steps: mj.protonet(EMBEDDING, WAYS),
    "matching_net": lambda steps: mj.matching_net(EMBEDDING, WAYS),
    "contextual": lambda steps: mj.matching_net(
        EMBEDDING, WAYS, context=mj.models.full_context(2)
    ),
    "relation_net": lambda steps: mj.relation_net(EMBEDDING, RELATION, WAYS),
    "r2d2": lambda steps: mj.r2d2(EMBEDDING, WAYS),
    "metaoptnet": lambda steps: mj.metaoptnet(EMBEDDING, WAYS),
    "svm": lambda steps: mj.metaoptnet(EMBEDDING, WAYS, head="svm"),
    "meta_baseline": lambda steps: mj.meta_baseline(EMBEDDING, WAYS),
    "hypernetwork": lambda steps: mj.hypernetwork(MODEL, EMBEDDING, GENERATOR, WAYS),
    "in_context": lambda steps: mj.in_context(EMBEDDING, READER),
    "baseline": lambda steps: mj.baseline(EMBEDDING, LOSS, SGD, steps, ways=WAYS),
    "proto_maml": lambda steps: proto_maml(EMBEDDING, LOSS, SGD, steps, WAYS),
}
STEPLESS = {
    "protonet",
    "matching_net",
    "contextual",
    "relation_net",
    "r2d2",
    "metaoptnet",
    "svm",
    "meta_baseline",
    "hypernetwork",
    "in_context",
}
IN_ORDER = {"contextual"}  # They read examples one after another.
# Before training they know no labels.
UNTAUGHT = {"relation_net", "hypernetwork", "in_context"}


def random_task(key):
    """A task of three noisy clusters."""
    centre_key, support_key, query_key = jax.random.split(key, 3)
    centres = jax.random.normal(centre_key, (WAYS, 5))

    def batch(key, each):
        labels = jnp.repeat(jnp.arange(WAYS), each)
        noise = 0.3 * jax.random.normal(key, (len(labels), 5))
        return mj.Batch(centres[labels] + noise, labels)

    return mj.Task(batch(support_key, SHOTS), batch(query_key, QUERIES))


draw = jax.jit(draw_tasks, static_argnums=1)


@cache
def drawn():
    """Eight tasks for each of 60 outer steps."""
    tasks = draw(jax.random.key(3), random_task, np.arange(480))
    return jax.tree.map(lambda x: np.asarray(x).reshape(60, 8, *x.shape[1:]), tasks)


def start(learner):
    task = jax.jit(random_task)(jax.random.key(1))
    return jax.jit(learner.init)(jax.random.key(0), task.support.inputs), task


@partial(jax.jit, static_argnums=0)  # Operations one by one take longer to compile.
def solved(learner, meta, task):
    adapted = learner.adapt(jax.random.key(2), meta, task.support)
    return adapted, learner.predict(meta, adapted, task.query.inputs)


def predictions(learner, meta, task):
    return solved(learner, meta, task)[1]


@partial(jax.jit, static_argnums=0)
def solved_and_gradient(learner, meta, task):
    """What was adapted, the predictions, and the meta-gradient of their loss."""

    def loss(meta):
        adapted, outputs = solved(learner, meta, task)
        return LOSS(outputs, task.query.targets), (adapted, outputs)

    gradient, both = jax.grad(loss, has_aux=True)(meta)
    return *both, gradient


def permuted_head(meta, order):
    """Gives labels another order, where a head or an embedding of labels knows them."""

    def permute(path, leaf):
        names = {getattr(part, "key", getattr(part, "name", None)) for part in path}
        if "targets" in names:
            return leaf[order]
        is_head = "head" in names and "matrices" not in names
        return leaf[..., order] if is_head and leaf.shape[-1] == WAYS else leaf

    return jax.tree_util.tree_map_with_path(permute, meta)


@cache  # The laws share what is compiled for a learner.
def made(name, num_steps=STEPS):
    return LEARNERS[name](num_steps)


@pytest.fixture(params=LEARNERS)
def learner(request):
    return made(request.param)


def padded(batch):
    """The same examples of every task, after two that the mask tells to ignore."""
    inputs, targets, _ = batch
    junk = np.full((len(inputs), 2, *inputs.shape[2:]), np.nan, inputs.dtype)
    none = np.full((len(targets), 2), 99, targets.dtype)
    mask = np.arange(2 + targets.shape[1]) >= 2
    return mj.Batch(
        np.concatenate([junk, inputs], axis=1),
        np.concatenate([none, targets], axis=1),
        np.tile(mask, (len(targets), 1)),
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_neither_other_tasks_nor_padding_change_predictions(name):
    """Nor gradients: those of padded tasks on devices are below."""
    learner = made(name)
    meta, _ = start(learner)
    tasks = jax.tree.map(lambda x: x[0], drawn())

    @jax.jit
    def together(support, query):
        def one(support, query):
            adapted = learner.adapt(jax.random.key(2), meta, support)
            return learner.predict(meta, adapted, query.shown)

        return jax.vmap(one)(support, query)

    outputs = np.asarray(together(*map(padded, tasks)))[:, 2:]
    for i, actual in enumerate(outputs):
        alone = predictions(learner, meta, jax.tree.map(lambda x: x[i], tasks))  # noqa: B023
        np.testing.assert_allclose(actual, alone, rtol=1e-4, atol=1e-5)


def test_permuting_labels_permutes_predictions(learner):
    meta, task = jax.device_get(start(learner))
    order = np.array([2, 0, 1], np.int32)  # Label l becomes order[l].
    support = task.support._replace(targets=order[task.support.targets])
    inverse = np.argsort(order)
    before = predictions(learner, meta, task)
    after = predictions(
        learner, permuted_head(meta, inverse), task._replace(support=support)
    )
    np.testing.assert_allclose(after, before[:, inverse], rtol=1e-4, atol=1e-5)
    assert not np.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in IN_ORDER])
def test_the_order_of_support_examples_does_not_matter(name):
    learner = made(name)
    meta, task = start(learner)
    reversed_support = jax.tree.map(lambda x: np.asarray(x)[::-1], task.support)
    np.testing.assert_allclose(
        predictions(learner, meta, task._replace(support=reversed_support)),
        predictions(learner, meta, task),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", sorted(STEPLESS - UNTAUGHT))
def test_adaptation_prefers_the_labels_of_the_support(name):
    learner = made(name)
    meta, task = start(learner)
    again = task._replace(query=task.support)
    wrong = again.support._replace(targets=(again.support.targets + 1) % WAYS)
    after = predictions(learner, meta, again)
    misled = predictions(learner, meta, again._replace(support=wrong))
    assert LOSS(after, task.support.targets) < LOSS(misled, task.support.targets)


@pytest.mark.parametrize("name", [n for n in LEARNERS if n not in STEPLESS])
def test_inner_steps_lower_the_support_loss(name):
    learner, unadapting = made(name), made(name, 0)
    meta, task = start(learner)
    again = task._replace(query=task.support)
    after, before = (predictions(each, meta, again) for each in (learner, unadapting))
    assert LOSS(after, task.support.targets) < LOSS(before, task.support.targets)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(learner, dtype):
    meta, task = jax.tree.map(
        lambda x: np.asarray(x, dtype if x.dtype == jnp.float32 else None),
        start(learner),
    )
    adapted, outputs = solved.trace(learner, meta, task).out_info
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(adapted)} - {jnp.dtype(bool)}
    assert dtypes == {jnp.dtype(dtype)}
    assert outputs.dtype == dtype


# What is trained by its losses after every inner step.
MULTI_STEP = {
    "maml_plus_plus": partial(mj.maml_plus_plus, MODEL),
    "warpgrad": partial(mj.warpgrad, WARPED),
}
TRAINED = [
    *((name, False) for name in LEARNERS),
    *((name, True) for name in MULTI_STEP),
]


def objective(name, multi_step):
    if not multi_step:
        return mj.query_loss(made(name), LOSS)
    learner = MULTI_STEP[name](LOSS, STEPS, rate=0.1, every_step=True)
    return mj.multi_step_loss(learner, LOSS, np.full(STEPS, 1 / STEPS, np.float32))


@cache
def trained(name, multi_step):
    """The same 60 outer steps, thrice: mean losses, numbers of traces, first gradients."""
    estimate = mj.estimators.backprop(objective(name, multi_step))
    means, traces, first = [], [], None

    def observed(key, meta, tasks):
        traces[-1] += 1
        (loss, metrics), grads = estimate(key, meta, tasks)
        return (loss, metrics | {"grads": grads}), grads

    optimizer, meta = optax.adam(1e-2), start(made(name))[0]
    state = mj.TrainState(
        jnp.int32(0), jax.random.key(0), meta, jax.jit(optimizer.init)(meta)
    )
    run = jax.jit(partial(jax.lax.scan, mj.train_step(observed, optimizer)))
    for _ in range(3):
        traces.append(0)
        state, metrics = run(state, drawn())
        assert not metrics["skipped"].any()
        means.append(np.mean(metrics["loss"]))
        first = first or jax.tree.map(lambda x: x[0], jax.device_get(metrics["grads"]))
    return means, traces, first


@pytest.mark.parametrize("name, multi_step", TRAINED)
def test_meta_gradient_is_finite_and_not_zero(name, multi_step):
    _, _, gradient = trained(name, multi_step)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.parametrize("name, multi_step", TRAINED)
def test_training_lowers_the_loss_and_never_traces_again(name, multi_step):
    means, traces, _ = trained(name, multi_step)
    assert means[2] < means[0]
    assert traces[0] > 0 and traces[1:] == [0, 0]


@cache
def shared(name, multi_step):
    """The meta-gradient on devices, of padded tasks, traced in JAX's strict modes."""
    mesh = mj.estimators.task_mesh()
    estimate = mj.estimators.backprop(objective(name, multi_step), mesh=mesh)
    tasks = mj.Task(*map(padded, jax.tree.map(lambda x: x[0], drawn())))
    _, key = mj.streams.step_keys(jax.random.key(0), 0)
    everywhere = jax.NamedSharding(mesh, jax.P())
    inputs = jax.device_put((key, start(made(name))[0], tasks), everywhere)
    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        return jax.jit(estimate).trace(*inputs), inputs


@pytest.mark.parametrize("name, multi_step", TRAINED)
def test_the_strict_modes_of_jax_find_nothing(name, multi_step):
    """No key is used twice, and no two dtypes meet by chance."""
    traced, _ = shared(name, multi_step)
    assert traced.out_info
    _, task = start(made(name))
    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        jax.jit(made(name).init).trace(jax.random.key(0), task.support.inputs)


def test_the_strict_modes_of_jax_find_nothing_in_training():
    """Which gives every learner its keys."""
    learner, optimizer = made("maml"), optax.adam(1e-3)
    step = mj.train_step(mj.estimators.backprop(objective("maml", False)), optimizer)

    def masked_task(key):
        batches = random_task(key)
        return mj.Task(
            *(b._replace(mask=jnp.arange(len(b.targets)) > 0) for b in batches)
        )

    def trained_state(key):
        state = mj.init_state(key, learner, optimizer, masked_task)
        return mj.train(step, state, masked_task, num_tasks=2, num_steps=2)

    with jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(trained_state, jax.random.key(0))


@pytest.mark.parametrize("name, multi_step", TRAINED)
def test_devices_share_the_tasks_and_meet_once_whatever_the_padding(name, multi_step):
    _, _, expected = trained(name, multi_step)
    traced, inputs = shared(name, multi_step)
    program = traced.lower().compile()
    assert program.as_text().count(" all-reduce(") == 1
    _, gradient = program(*inputs)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_meta_parameters_survive_a_checkpoint(learner, tmp_path):
    meta, task = start(learner)
    checkpoints.save(tmp_path / "checkpoints", 3, meta)
    restored = checkpoints.restore(tmp_path / "checkpoints", meta).tree
    jax.tree.map(np.testing.assert_array_equal, restored, meta)


UNDER_ADJOINTS = {
    "maml": partial(mj.maml, MODEL, LOSS, SGD, STEPS),
    "meta_sgd": partial(mj.meta_sgd, MODEL, LOSS, STEPS),
    "meta_curvature": partial(mj.meta_curvature, MODEL, LOSS, SGD, STEPS),
    "imaml": partial(mj.imaml, MODEL, LOSS, SGD, STEPS),
    "maml_plus_plus": partial(mj.maml_plus_plus, MODEL, LOSS, STEPS, rate=0.1),
}


@pytest.mark.parametrize("name", UNDER_ADJOINTS)
def test_part_of_the_params_adapts_under_any_adjoint(name):
    meta, task = start(made(name))
    params = getattr(meta, "params", meta)

    grads = []
    for adjoint in (mj.adjoints.unroll(), mj.adjoints.mixed_mode()):
        learner = UNDER_ADJOINTS[name](adjoint=mj.adjoints.only("head/*", adjoint))
        adapted, _, gradient = solved_and_gradient(learner, meta, task)
        jax.tree.map(
            np.testing.assert_array_equal, adapted["Dense_0"], params["Dense_0"]
        )
        assert not np.allclose(adapted["head"]["kernel"], params["head"]["kernel"])
        grads.append(gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *grads)
