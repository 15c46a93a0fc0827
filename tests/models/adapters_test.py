"""Modules of both flax interfaces, and plain functions, are models alike."""

from flax import nnx
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.losses import cross_entropy, squared_error
from metajax.models import from_linen, from_nnx
from metajax.models.adapters import Calibrated
from metajax.models.layers import Normalize


def _inputs(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _tasks(num_tasks=3):
    """Tasks of telling three classes apart in three dimensions, stacked."""
    labels = np.tile(np.arange(6) % 3, (num_tasks, 1))
    batches = [mj.Batch(_inputs(seed, num_tasks, 6, 3), labels) for seed in (1, 2)]
    return mj.Task(*batches)


def _meta_gradient(model, params):
    """Loss and gradient of one MAML step, over a task axis."""
    learner = mj.maml(model, cross_entropy, optax.sgd(0.4), 1)
    estimate = mj.estimators.backprop(mj.query_loss(learner, cross_entropy))
    (loss, _), grads = jax.jit(estimate)(jax.random.key(0), params, _tasks())
    return loss, grads


class _Net(nnx.Module):
    def __init__(self, rngs, norm=False):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs) if norm else None
        self.second = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, inputs):
        hidden = self.first(inputs)
        hidden = hidden if self.norm is None else self.norm(hidden)
        return self.second(nnx.tanh(hidden))


class _LinenDropout(nn.Module):
    deterministic: bool

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.Dense(3, name="dense")(inputs)
        return nn.Dropout(0.5, deterministic=self.deterministic)(hidden)


class _NnxDropout(nnx.Module):
    def __init__(self, rngs, **options):
        self.dense = nnx.Linear(3, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs, **options)

    def __call__(self, inputs):
        return self.dropout(self.dense(inputs))


class _NnxNoise(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.rngs = nnx.Linear(3, 3, rngs=rngs), rngs

    def __call__(self, inputs):
        return self.dense(inputs) + jax.random.normal(self.rngs.noise(), (3,))[None]


def _evaluating(rngs):
    module = _NnxDropout(rngs)
    module.eval()
    return module


RANDOM = {
    "linen": lambda: from_linen(_LinenDropout(False)),
    "nnx": lambda: from_nnx(_NnxDropout),
    "nnx noise": lambda: from_nnx(_NnxNoise),
}
EVALUATING = {
    "linen": lambda: from_linen(_LinenDropout(True)),
    "nnx": lambda: from_nnx(lambda rngs: _NnxDropout(rngs, deterministic=True)),
    "nnx eval": lambda: from_nnx(_evaluating),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_module_that_draws_random_numbers_is_refused(name):
    model = RANDOM[name]()
    params = model.init(jax.random.key(0), _inputs(0, 6, 3))
    message = "draws random numbers when called.*deterministic=True"
    with pytest.raises(ValueError, match=message):
        model.apply(params, _inputs(0, 6, 3))
    with pytest.raises(ValueError, match=message):
        _meta_gradient(model, params)


@pytest.mark.parametrize("name", EVALUATING)
def test_a_module_whose_dropout_is_off_is_its_layers(name):
    model, inputs = EVALUATING[name](), _inputs(0, 6, 3)
    params = model.init(jax.random.key(0), inputs)
    dense = (params if isinstance(params, dict) else _raw(params))["dense"]
    expected = inputs @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(model.apply(params, inputs), expected, atol=1e-6)
    loss, _ = _meta_gradient(model, params)
    assert np.isfinite(loss)


def _raw(state):
    """The arrays of an NNX state, as nested dicts."""
    return nnx.to_pure_dict(state)


def test_a_linen_module_is_its_init_and_apply():
    module, inputs = nn.Dense(4), _inputs(0, 2, 3)
    model = from_linen(module)
    params = model.init(jax.random.key(0), inputs)
    jax.tree.map(
        np.testing.assert_array_equal,
        {"params": params},
        module.init(jax.random.key(0), inputs),
    )
    expected = inputs @ params["kernel"] + params["bias"][None]
    np.testing.assert_allclose(model.apply(params, inputs), expected, atol=1e-6)


def test_without_statistics_calibration_returns_the_params_themselves():
    for model in (from_linen(nn.Dense(4)), mj.Model(None, None)):
        params = {"kernel": _inputs(0, 3, 4), "bias": _inputs(1, 4)}
        assert model.calibrate(params, _inputs(2, 2, 3)) is params


def test_a_linen_module_without_params_has_none():
    model = from_linen(nn.Sequential([nn.relu]))
    assert model.init(jax.random.key(0), _inputs(0, 2, 3)) == {}


def test_linen_batch_norm_is_refused_by_the_name_of_its_collection():
    module = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=False)])
    with pytest.raises(ValueError, match="state in batch_stats.*layers.Normalize"):
        from_linen(module).init(jax.random.key(0), _inputs(0, 2, 3))


def test_init_leaves_the_statistics_of_its_example_inputs_behind():
    model = from_linen(Normalize("support"))
    params = model.init(jax.random.key(0), _inputs(0, 5, 2, 2, 3))
    assert set(params) == {"scale", "bias"}


def test_calibration_holds_the_moments_of_the_inputs():
    model = from_linen(Normalize("support"))
    support, queries = _inputs(1, 5, 3), _inputs(2, 2, 3)
    params = model.init(jax.random.key(0), support)
    calibrated = model.calibrate(params, support)
    assert isinstance(calibrated, Calibrated) and calibrated.params is params
    expected = (queries - support.mean(0)) / np.sqrt(support.var(0) + 1e-3)
    np.testing.assert_allclose(model.apply(calibrated, queries), expected, atol=1e-5)


def test_the_meta_gradient_through_calibration_is_the_finite_difference():
    """In double precision; statistics taken for constants would miss by far."""
    layers = [nn.Dense(4), Normalize("support"), nn.tanh, nn.Dense(3)]
    model = from_linen(nn.Sequential(layers))
    constant = model._replace(
        calibrate=lambda params, inputs: Calibrated(
            params, jax.lax.stop_gradient(model.calibrate(params, inputs).statistics)
        )
    )
    with jax.enable_x64(True):
        params = jax.jit(model.init)(jax.random.key(0), _inputs(0, 1, 3))
        params, tasks = jax.tree.map(np.float64, (params, _tasks(1)._asdict()))
        support, query = (
            jax.tree.map(lambda leaf: leaf[0], batch)._replace(targets=np.arange(6) % 3)
            for batch in tasks.values()
        )

        def cost(model):
            learner = mj.maml(model, cross_entropy, optax.sgd(0.4), 1)
            objective = mj.query_loss(learner, cross_entropy)
            return lambda params: objective(None, params, mj.Task(support, query))[0]

        random = np.random.default_rng(3)
        direction = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params)

        def along(step):
            return jax.tree.map(lambda p, d: p + step * d, params, direction)

        def slope(model):
            grads = jax.jit(jax.grad(cost(model)))(params)
            return sum(jax.tree.leaves(jax.tree.map(np.vdot, grads, direction))), grads

        value = jax.jit(cost(model))
        difference = (value(along(1e-5)) - value(along(-1e-5))) / 2e-5
        exact, grads = slope(model)
        np.testing.assert_allclose(exact, difference, rtol=1e-6)
        assert abs(slope(constant)[0] - difference) > 1e-2 * abs(difference)
    first_bias = grads["layers_0"].pop("bias")
    # A bias before a batch normalisation is the one thing that cannot matter.
    np.testing.assert_allclose(first_bias, 0, atol=1e-12)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(grads))


def test_nnx_params_are_its_param_state_and_depend_on_the_key():
    model = from_nnx(lambda rngs: _Net(rngs, norm=True))
    params = _raw(model.init(jax.random.key(1), None))
    expected = _raw(nnx.state(_Net(nnx.Rngs(jax.random.key(1)), norm=True), nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert set(params["norm"]) == {"scale", "bias"}
    other = _raw(model.init(jax.random.key(2), None))
    assert np.all(params["first"]["kernel"] != other["first"]["kernel"])


def test_nnx_init_may_be_traced():
    model = from_nnx(lambda rngs: _Net(rngs))
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.vmap(lambda key: model.init(key, None))(keys)
    one = model.init(keys[1], None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-6), many, one)


def test_an_nnx_net_equals_its_linen_twin_down_to_the_meta_gradient():
    model = from_nnx(lambda rngs: _Net(rngs))
    params = model.init(jax.random.key(0), None)
    twin = from_linen(nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(3)]))

    def as_linen(state):
        raw = _raw(state)
        return {"layers_0": raw["first"], "layers_2": raw["second"]}

    loss, grads = _meta_gradient(model, params)
    expected_loss, expected = _meta_gradient(twin, as_linen(params))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        as_linen(grads),
        expected,
    )


def test_nnx_batch_norm_normalises_by_the_batch_at_hand():
    model = from_nnx(lambda rngs: nnx.BatchNorm(3, epsilon=1e-3, rngs=rngs))
    inputs = 5 + 3 * _inputs(0, 6, 3)
    params = model.init(jax.random.key(0), None)
    expected = (inputs - inputs.mean(0)) / np.sqrt(inputs.var(0) + 1e-3)
    for _ in range(2):  # What the first call stored must not show in the second.
        np.testing.assert_allclose(model.apply(params, inputs), expected, atol=1e-4)


def test_an_nnx_net_with_batch_norm_trains_under_a_task_axis():
    model = from_nnx(lambda rngs: _Net(rngs, norm=True))
    params = model.init(jax.random.key(0), None)
    before, grads = _meta_gradient(model, params)
    # A bias before a batch normalisation is the one thing that cannot matter.
    reached = {k: bool(np.abs(v).max() > 1e-4) for k, v in _leaves(grads).items()}
    assert reached.pop("first/bias") is False and all(reached.values())
    params = jax.tree.map(
        lambda p, g: np.asarray(p - 0.1 * np.asarray(g)), params, grads
    )
    after, _ = _meta_gradient(model, params)
    assert after < before


def _leaves(state):
    leaves = jax.tree_util.tree_leaves_with_path(_raw(state))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): v for p, v in leaves}


def test_a_pair_of_functions_takes_the_maml_step_that_algebra_gives():
    model = mj.Model(
        lambda key, inputs: jax.random.normal(key, inputs.shape[-1:]),
        lambda params, inputs: inputs @ params,
    )
    learner = mj.maml(model, squared_error, optax.sgd(0.1), 1)
    inputs, targets = _inputs(0, 5, 3), _inputs(1, 5)
    params = learner.init(jax.random.key(0), inputs)

    @jax.jit
    def predicted(params):
        adapted = learner.adapt(jax.random.key(0), params, mj.Batch(inputs, targets))
        return learner.predict(params, adapted, np.eye(3, dtype=np.float32))

    contraction = np.eye(3) - 0.1 * 2 / 5 * inputs.T @ inputs
    expected = contraction @ params + 0.1 * 2 / 5 * inputs.T @ targets
    np.testing.assert_allclose(predicted(params), expected, atol=1e-6)
    slopes = jax.jit(jax.jacobian(predicted))(params)
    np.testing.assert_allclose(slopes, contraction, atol=1e-6)
