"""The meta-gradient over tasks by each estimator, whole, in chunks and on devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import metajax as mj
from metajax import adjoints, estimators, learners, losses

NUM_TASKS = 12


def objective(key, meta, task):
    """A noisy regression: the noise shows whether tasks keep their own keys."""
    noise = jax.random.normal(key, task.shape)
    loss = jnp.mean((meta["scale"] * task + meta["shift"] + 0.1 * noise - 1.0) ** 2)
    return loss, {"loss": loss, "noise": jnp.mean(noise)}


whole = jax.jit(estimators.backprop(objective))  # At once, on one device.


@pytest.fixture
def inputs():
    meta = {"scale": np.float32(0.3), "shift": np.float32(-0.2)}
    tasks = np.random.default_rng(1).normal(size=(NUM_TASKS, 5)).astype(np.float32)
    return jax.random.key(0), meta, tasks


def test_equals_the_mean_of_gradients_of_a_plain_loop(inputs):
    key, meta, tasks = inputs
    total = {"scale": 0.0, "shift": 0.0}
    gradient = jax.jit(jax.grad(objective, argnums=1, has_aux=True))
    for i, task in enumerate(tasks):
        grads, _ = gradient(jax.random.fold_in(key, i), meta, task)
        total = {name: total[name] + grads[name] / NUM_TASKS for name in total}
    (loss, metrics), grads = whole(key, meta, tasks)
    np.testing.assert_allclose(grads["scale"], total["scale"], rtol=1e-5)
    np.testing.assert_allclose(grads["shift"], total["shift"], rtol=1e-5)
    np.testing.assert_allclose(loss, metrics["loss"])


@pytest.mark.parametrize("tasks_per_chunk", [1, 2, 3, 4, 6, 12])
def test_every_chunk_size_gives_the_same(inputs, tasks_per_chunk):
    chunked = estimators.backprop(objective, tasks_per_chunk=tasks_per_chunk)
    assert_close(jax.jit(chunked)(*inputs), whole(*inputs), atol=0)


def test_a_chunk_that_does_not_divide_is_refused(inputs):
    with pytest.raises(ValueError, match="tasks_per_chunk=5 does not divide the 12"):
        estimators.backprop(objective, tasks_per_chunk=5)(*inputs)
    with pytest.raises(ValueError, match="at least 1"):
        estimators.backprop(objective, tasks_per_chunk=0)


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("tasks_per_chunk", [None, 1, 3])
def test_every_number_of_devices_gives_the_same(inputs, num_devices, tasks_per_chunk):
    mesh = estimators.task_mesh(num_devices)
    divided = estimators.backprop(objective, tasks_per_chunk=tasks_per_chunk, mesh=mesh)
    assert_close(jax.jit(divided)(*inputs), whole(*inputs), atol=0)


def test_devices_meet_once_a_step_and_share_the_drawing_of_tasks(inputs):
    key, meta, tasks = inputs
    mesh = estimators.task_mesh(4)
    divided = estimators.backprop(objective, tasks_per_chunk=1, mesh=mesh)

    @jax.jit
    def draw_and_estimate(key, meta):
        draw = jax.vmap(lambda k: jax.random.normal(k, tasks.shape[1:]))
        return divided(key, meta, draw(jax.random.split(key, NUM_TASKS)))

    text = draw_and_estimate.lower(key, meta).compile().as_text()
    assert text.count(" all-reduce(") == 1
    assert "all-gather" not in text
    assert f"f32[{NUM_TASKS},{tasks[0].size}]" not in text


@pytest.mark.parametrize("num_tasks", [1, 6, 10])
def test_devices_share_any_number_of_tasks(inputs, num_tasks):
    key, meta, tasks = inputs
    shared = jax.jit(estimators.backprop(objective, mesh=estimators.task_mesh(4)))
    few = key, meta, tasks[:num_tasks]
    assert_close(shared(*few), whole(*few), atol=0)


def test_devices_that_are_not_there_and_chunks_that_do_not_divide_are_refused(inputs):
    with pytest.raises(ValueError, match="choose 1 to 8 devices"):
        estimators.task_mesh(9)
    mesh = estimators.task_mesh(4)
    with pytest.raises(ValueError, match="does not divide the 3 tasks of a device"):
        estimators.backprop(objective, tasks_per_chunk=2, mesh=mesh)(*inputs)


def assert_close(actual, expected, rtol=1e-5, atol=1e-7):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        actual,
        expected,
    )


@pytest.mark.parametrize("chunk", [None, 4])
def test_metrics_that_count_are_averaged_as_numbers(inputs, chunk):
    def counting(key, meta, task):
        loss, _ = objective(key, meta, task)
        positive = task > 0
        return loss, {"number": positive.sum(), "most": positive.sum() > 2}

    number = (inputs[2] > 0).sum(1)
    for make in (
        estimators.backprop,
        estimators.forward_mode,
        partial(estimators.evolution, num_pairs=2, std=0.1),
    ):
        estimate = jax.jit(make(counting, tasks_per_chunk=chunk))
        (_, metrics), _ = estimate(*inputs)
        np.testing.assert_allclose(metrics["number"], np.mean(number), rtol=1e-6)
        np.testing.assert_allclose(metrics["most"], np.mean(number > 2), rtol=1e-6)


DIVISIONS = {
    "at once": lambda: {},
    "in chunks": lambda: {"tasks_per_chunk": 4},
    "on devices that share unevenly": lambda: {"mesh": estimators.task_mesh(4)},
    "on devices in chunks": lambda: {
        "mesh": estimators.task_mesh(2),
        "tasks_per_chunk": 2,
    },
}


def divided(inputs, division):
    """The inputs and how they are divided: ten tasks are shared unevenly."""
    key, meta, tasks = inputs
    number = 10 if "unevenly" in division else NUM_TASKS
    return (key, meta, tasks[:number]), DIVISIONS[division]()


@pytest.mark.parametrize("division", DIVISIONS)
def test_forward_mode_equals_backprop(inputs, division):
    inputs, kwargs = divided(inputs, division)
    forward = jax.jit(estimators.forward_mode(objective, **kwargs))
    assert_close(forward(*inputs), whole(*inputs))


def test_forward_mode_differentiates_an_inner_loop_by_its_rate(inputs):
    """With a rate of each inner step and a start, which reverse mode knows too."""
    key, _, tasks = inputs
    meta = {"rates": jnp.array([0.1, 0.3, 0.2]), "start": jnp.full((2, 1), 0.5)}

    def hyper(key, meta, task):
        def inner(params, task):
            return jnp.mean((params[0] * task + params[1] - jnp.sin(task)) ** 2)

        optimizer = learners.descend(meta["rates"], per_step=True)
        params = adjoints.unroll()(inner, optimizer, 3)(meta["start"], task)
        return objective(key, {"scale": params[0, 0], "shift": params[1, 0]}, task)

    expected = jax.jit(estimators.backprop(hyper))(key, meta, tasks)
    assert all(np.abs(leaf).min() > 1e-3 for leaf in jax.tree.leaves(expected[1]))
    actual = jax.jit(estimators.forward_mode(hyper))(key, meta, tasks)
    assert_close(actual, expected, rtol=1e-4)


def many_estimates(objective, meta, num_keys, tasks=None, **kwargs):
    """Of evolution, each with a key of its own: leaves [keys, ...]."""
    tasks = jnp.zeros((1, 1)) if tasks is None else tasks
    estimator = estimators.evolution(objective, **kwargs)
    keys = jax.random.split(jax.random.key(7), num_keys)
    return jax.jit(jax.vmap(lambda key: estimator(key, meta, tasks)))(keys)


def assert_unbiased(estimates, expected):
    """Within four standard errors, which are small beside the gradient."""
    mean, count = np.mean(estimates, axis=0), len(estimates)
    error = np.std(estimates, axis=0, ddof=1) / np.sqrt(count)
    assert (np.abs(mean - expected) < 4 * error).all()
    assert (error < 0.1 * np.linalg.norm(expected)).all()


def quadratic(key, meta, task):
    """0.5 m'Am - b'm + task m, of a tree of params; its gradient is linear."""
    del key
    m = jnp.concatenate([meta["a"], meta["b"]])
    loss = 0.5 * m @ CURVATURE @ m + jnp.sum(task) * jnp.sum(m)
    return loss, {"loss": loss}


CURVATURE = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]], np.float32)
POINT = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([0.5], np.float32)}


def test_evolution_is_unbiased_on_a_quadratic():
    """Whose smoothed gradient is its own, whatever the standard deviation."""
    tasks = jnp.array([[0.3], [0.7]])
    expected = CURVATURE @ np.concatenate([POINT["a"], POINT["b"]]) + 0.5
    for std in (0.01, 2.0):
        _, grads = many_estimates(
            quadratic, POINT, 2000, tasks=tasks, num_pairs=1, std=std
        )
        estimates = np.concatenate([grads["a"], grads["b"]], axis=1)
        assert_unbiased(estimates, expected)


def test_evolution_estimates_the_gradient_of_the_smoothed_objective():
    """E (x + std n)^3 = x^3 + 3 x std^2 has the slope 3 x^2 + 3 std^2."""

    def cubic(key, meta, task):
        loss = meta**3
        return loss, {"loss": loss}

    (values, _), grads = many_estimates(
        cubic, jnp.float32(0.5), 4000, num_pairs=1, std=1.5
    )
    assert_unbiased(np.asarray(grads), 3 * 0.5**2 + 3 * 1.5**2)
    assert_unbiased(np.asarray(values), 0.5**3 + 3 * 0.5 * 1.5**2)


def test_pairs_divide_the_variance_of_evolution_by_their_number():
    one, many = (
        many_estimates(quadratic, POINT, 1000, num_pairs=n, std=0.1)[1]["b"].var()
        for n in (1, 16)
    )
    assert 16 / 1.5 < one / many < 16 * 1.5


def test_even_parts_of_an_objective_leave_no_trace_in_evolution():
    """Both signs of the noise cost the same, so that not even variance is left."""

    def parts(even, odd):
        def objective(key, meta, task):
            loss = even * jnp.sum(meta**2) + odd * jnp.sum(meta)
            return loss, {"loss": loss}

        return objective

    def estimate(even, odd):
        meta = jnp.zeros(3)
        return many_estimates(parts(even, odd), meta, 5, num_pairs=3, std=0.5)[1]

    np.testing.assert_array_equal(estimate(7.0, 0.0), np.zeros((5, 3)))
    assert np.abs(estimate(0.0, 1.0)).min() > 1e-3
    assert_close(estimate(7.0, 1.0), estimate(0.0, 1.0), rtol=1e-4, atol=1e-5)


def test_both_signs_of_evolution_meet_the_same_noise_of_tasks(inputs):
    """A loss of the tasks' keys alone has the estimate zero, not noise."""

    def lottery(key, meta, task):
        loss = jax.random.normal(key) + 0 * meta["scale"]
        return loss, {"loss": loss}

    evolution = jax.jit(estimators.evolution(lottery, num_pairs=2, std=0.01))
    (loss, _), grads = evolution(*inputs)
    assert_close(grads, {"scale": 0.0, "shift": 0.0}, atol=0)
    expected = jax.jit(estimators.backprop(lottery))(*inputs)[0][0]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("division", [name for name in DIVISIONS if name != "at once"])
def test_evolution_is_the_same_however_tasks_are_divided(inputs, division):
    inputs, kwargs = divided(inputs, division)
    evolution = partial(estimators.evolution, objective, num_pairs=3, std=0.1)
    expected = jax.jit(evolution())(*inputs)
    assert_close(jax.jit(evolution(**kwargs))(*inputs), expected, 1e-4, 1e-6)


def test_metrics_of_evolution_are_means_over_both_signs_of_the_pairs(inputs):
    key, meta, tasks = inputs

    def linear(key, meta, task):
        loss = jnp.mean(meta["scale"] * task + meta["shift"])
        return loss, {"loss": loss, "square": meta["scale"] ** 2}

    estimate = jax.jit(estimators.evolution(linear, num_pairs=500, std=0.5))
    (loss, metrics), _ = estimate(key, meta, tasks)
    assert set(metrics) == {"loss", "square"}
    np.testing.assert_allclose(loss, 0.3 * np.mean(tasks) - 0.2, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], loss)
    # E (scale + std n)^2, within four standard errors.
    error = 0.5**2 * np.sqrt(2 / 500)
    np.testing.assert_allclose(metrics["square"], 0.3**2 + 0.5**2, atol=4 * error)


def test_evolution_refuses_no_pairs_and_no_noise():
    for num_pairs, std in ((0, 0.1), (1, 0.0), (1, -0.1), (1, float("nan"))):
        with pytest.raises(
            ValueError, match="num_pairs must be at least 1 and std pos"
        ):
            estimators.evolution(objective, num_pairs=num_pairs, std=std)


def regression_tasks(num_tasks=6):
    """Batches of five examples with two inputs: leaves [tasks, ...]."""
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(num_tasks, 2, 5, 2)).astype(np.float32)
    targets = rng.normal(size=(num_tasks, 2, 5, 1)).astype(np.float32)
    return mj.Task(*(mj.Batch(inputs[:, i], targets[:, i]) for i in range(2)))


def linear_model():
    return mj.Model(
        init=lambda key, inputs: {"weights": jnp.array([[0.5], [-0.3]])},
        apply=lambda params, inputs: inputs @ params["weights"],
    )


def slope(weights, batch):
    """Of the mean squared error of inputs @ weights."""
    residual = batch.inputs @ weights - batch.targets
    return 2 * batch.inputs.T @ residual / len(residual)


@pytest.mark.parametrize("division", ["at once", "in chunks", "on devices"])
def test_displacement_is_the_mean_way_of_a_plain_loop(division):
    tasks, steps, rate = regression_tasks(), 3, 0.2
    learner = mj.reptile(
        linear_model(), losses.squared_error, optax.sgd(rate), num_steps=steps
    )
    meta = learner.init(jax.random.key(0), None)
    ways, costs = [], []
    for i in range(6):
        support, query = jax.tree.map(lambda x: x[i], tasks)  # noqa: B023
        weights = start = np.asarray(meta["weights"])
        for _ in range(steps):
            weights = weights - rate * slope(weights, support)
        ways.append(start - weights)
        costs.append(np.mean((query.inputs @ weights - query.targets) ** 2))

    def twice(*arguments):
        return 2 * losses.squared_error(*arguments)

    kwargs = {
        "at once": {},
        "in chunks": {"tasks_per_chunk": 2},
        "on devices": {"mesh": estimators.task_mesh(4), "tasks_per_chunk": 1},
    }[division]
    estimator = estimators.displacement(
        learner, losses.squared_error, twice=twice, **kwargs
    )
    (loss, metrics), moved = jax.jit(estimator)(jax.random.key(0), meta, tasks)
    np.testing.assert_allclose(moved["weights"], np.mean(ways, axis=0), rtol=1e-5)
    np.testing.assert_allclose(loss, np.mean(costs), rtol=1e-5)
    assert set(metrics) == {"loss", "twice"}
    np.testing.assert_allclose(metrics["twice"], 2 * loss, rtol=1e-5)


def test_tasks_are_displaced_by_keys_of_their_own():
    def adapt(key, meta, support):
        return meta + jax.random.normal(key, meta.shape)

    learner = mj.MetaLearner(None, adapt, lambda meta, adapted, x: x[:, :1])
    tasks, meta, key = regression_tasks(), np.zeros(2, np.float32), jax.random.key(3)
    keys = [jax.random.fold_in(key, i) for i in range(6)]
    expected = -np.mean([jax.random.normal(k, (2,)) for k in keys], axis=0)
    for chunk in (None, 3):
        estimator = estimators.displacement(
            learner, losses.squared_error, tasks_per_chunk=chunk
        )
        _, moved = jax.jit(estimator)(key, meta, tasks)
        np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_with_one_inner_step_reptile_is_joint_training():
    """Of the mean support loss, at the product of the rates, over two outer steps."""
    tasks, rate, outer_rate = regression_tasks(), 0.2, 0.5
    learner = mj.reptile(linear_model(), losses.squared_error, optax.sgd(rate), 1)
    optimizer = optax.sgd(outer_rate)
    step = mj.train_step(
        estimators.displacement(learner, losses.squared_error), optimizer
    )
    meta = learner.init(jax.random.key(0), None)
    weights = np.asarray(meta["weights"])
    state = mj.TrainState(jnp.int32(0), jax.random.key(0), meta, optimizer.init(meta))
    for serial in (slice(0, 1), slice(2, 6)):  # One task, and then four.
        some = jax.tree.map(lambda x: x[serial], tasks)  # noqa: B023
        each = zip(some.support.inputs, some.support.targets)
        slopes = [slope(weights, mj.Batch(*batch)) for batch in each]
        weights = weights - rate * outer_rate * np.mean(slopes, axis=0)
        state, _ = jax.jit(step)(state, some)
        np.testing.assert_allclose(state.meta["weights"], weights, rtol=1e-5)


def test_displacement_is_of_params_without_their_statistics():
    model = mj.models.conv4(ways=2, width=2, normalization="support")
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    support = mj.Batch(images, np.arange(4) % 2)
    learner = mj.reptile(model, losses.cross_entropy, optax.sgd(0.1), 1)
    meta = jax.jit(learner.init)(jax.random.key(0), images)
    adapted = jax.eval_shape(learner.adapt, jax.random.key(0), meta, support)
    assert jax.tree.structure(adapted) != jax.tree.structure(meta)
    estimator = estimators.displacement(learner, losses.cross_entropy)
    same = jax.tree.map(lambda x: np.stack([x, x]), support)
    _, moved = jax.jit(estimator)(jax.random.key(0), meta, mj.Task(same, same))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(moved))
    # The slope of cross-entropy in the head's bias is softmax minus the labels.
    probabilities = scipy.special.softmax(jax.jit(model.apply)(meta, images), axis=1)
    slope = np.mean(probabilities - np.eye(2)[support.targets], axis=0)
    np.testing.assert_allclose(moved["head"]["bias"], 0.1 * slope, rtol=1e-3)


def test_displacement_refuses_a_learner_that_adapts_something_else():
    learner = mj.meta_sgd(linear_model(), losses.squared_error, 1)
    meta = learner.init(jax.random.key(0), None)
    estimator = estimators.displacement(learner, losses.squared_error)
    with pytest.raises(ValueError, match="displacement needs a learner whose adapted"):
        estimator(jax.random.key(0), meta, regression_tasks())


def test_before_runs_the_first_until_the_step_and_then_the_other(inputs):
    _, meta, tasks = inputs
    traces = []

    def estimator(sign):
        def estimate(key, meta, tasks):
            loss = sign * jnp.mean(tasks) * jax.random.uniform(key)
            return (loss, {"loss": loss}), jax.tree.map(lambda x: sign + x, meta)

        return estimate

    @jax.jit
    def at(step, key):
        traces.append(step)
        switched = estimators.before(step, 3, estimator(1.0), estimator(-2.0))
        return switched(key, meta, tasks)

    each = [jax.jit(estimator(sign)) for sign in (1.0, -2.0)]
    for step in range(6):
        key = jax.random.key(step)
        expected = each[step >= 3](key, meta, tasks)
        assert_close(at(jnp.int32(step), key), expected)
    assert len(traces) == 1
