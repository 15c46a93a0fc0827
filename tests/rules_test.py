"""Learned update rules: what each starts as, what it sees, and that it can be trained."""

import ast
from functools import partial
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import rule_optimizers, rules, training
from metajax.estimators import backprop, persistent
from metajax.unrolls import whole

PARAMS = {"a": np.float32([[0.3, -2.0], [1.0, 0.0]]), "b": np.float32([0.5])}
RULES = {
    "per_parameter": rules.per_parameter(4, rate=0.01),
    "per_layer": rules.per_parameter(4, rate=0.01, sees_layer=True),
    "recurrent": rules.recurrent(4),
    "scheduled_adam": rules.scheduled_adam(20, rate=0.01, knots=4),
}


def gradients(steps=12):
    """Some gradients after one another, one parameter without any."""
    random = np.random.default_rng(0)

    def draw(leaf):
        return random.normal(size=(steps, *leaf.shape)).astype(np.float32)

    each = jax.tree.map(draw, PARAMS)
    each["a"][:, 1, 1] = 0
    return each


@partial(jax.jit, static_argnums=0)
def moved(make, meta, params, grads):
    """The params after each step of an optimizer."""
    optimizer = make(meta)

    def one(carry, grads):
        params, state = carry
        moves, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, moves)
        return (params, state), params

    return jax.lax.scan(one, (params, optimizer.init(params)), grads)[1]


def plain(rule):
    meta = rule.init(jax.random.key(0))
    return {k: 0 * x if k == "outputs" else x for k, x in meta.items()}


@pytest.mark.parametrize("name", ["per_parameter", "per_layer", "scheduled_adam"])
def test_without_what_the_network_adds_it_is_adam(name):
    rule = RULES[name]
    found = moved(rule.optimizer, plain(rule), PARAMS, gradients())
    adam = optax.adam(0.01, eps_root=1e-16)
    expected = moved(lambda meta: adam, None, PARAMS, gradients())
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def disturbed(rule):
    """Meta-parameters of a rule that is no longer what it started as."""
    meta = rule.init(jax.random.key(0))
    noise = optax.tree.random_like(jax.random.key(1), meta, jax.random.normal)
    return optax.tree.add_scale(meta, 0.3, noise)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_parameters_means_nothing(name):
    rule, grads = RULES[name], gradients()
    meta = disturbed(rule)
    found = moved(rule.optimizer, meta, PARAMS, grads)["a"]

    def turned(tree, axis):
        return tree | {"a": np.flip(tree["a"], axis)}

    other = moved(rule.optimizer, meta, turned(PARAMS, 0), turned(grads, 1))["a"]
    np.testing.assert_allclose(np.flip(other, 1), found, rtol=1e-4, atol=1e-5)
    changed = grads | {"b": 3 * grads["b"]}  # Another array's gradient.
    other = moved(rule.optimizer, meta, PARAMS, changed)["a"]
    np.testing.assert_allclose(other, found, rtol=1e-5)


def test_the_scale_of_gradients_means_nothing_but_to_what_sees_it():
    grads = gradients()
    for name, alike in (("per_parameter", True), ("per_layer", False)):
        rule = RULES[name]
        meta = disturbed(rule)
        large = jax.tree.map(lambda leaf: 100 * leaf, grads)
        small, large = (moved(rule.optimizer, meta, PARAMS, g) for g in (grads, large))
        difference = np.abs(np.asarray(small["a"][-1] - large["a"][-1])).max()
        assert (difference < 1e-4) == alike


def test_a_recurrent_rule_is_its_network_on_each_number():
    model, grads = mj.models.gru(4), gradients()
    rule, meta = RULES["recurrent"], disturbed(RULES["recurrent"])
    found = moved(rule.optimizer, meta, PARAMS, grads)["a"][:, 0, 1]
    memory, at, expected = model.start(meta["gru"]), PARAMS["a"][0, 1], []
    for grad in grads["a"][:, 0, 1]:
        seen = jnp.array([np.log(np.abs(grad)) / 10, np.sign(grad)])
        memory, outputs = model.step(meta["gru"], memory, seen)
        at = at + 0.1 * outputs @ meta["weights"]
        expected.append(at)
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4)
    np.testing.assert_allclose(
        rule_optimizers._seen(jnp.array([1e-6, -1e-6, 0.0])),
        [[-1, np.exp(10) * 1e-6], [-1, -np.exp(10) * 1e-6], [-1, 0]],
        rtol=1e-5,
    )


def test_a_schedule_is_interpolated_and_its_last_rate_stays():
    rule = RULES["scheduled_adam"]
    rates = np.float32([0.1, 0.01, 0.001, 0.0001])
    meta = rule.init(jax.random.key(0)) | {"log_rates": jnp.log(rates)}
    grads = jax.tree.map(lambda p: np.ones((30, *p.shape), np.float32), PARAMS)
    path = moved(rule.optimizer, meta, PARAMS, grads)["b"][:, 0]
    steps = -np.diff(np.concatenate([PARAMS["b"], path]))  # Adam's are of size 1.
    expected = np.exp(np.interp(np.arange(30), np.linspace(0, 20, 4), np.log(rates)))
    np.testing.assert_allclose(steps, expected, rtol=2e-3)


def bowls(key):
    """Quadratic bowls of random widths."""
    scale_key, centre_key = jax.random.split(key)
    widths = jnp.exp(jax.random.normal(scale_key, (5,)))
    return widths, jax.random.normal(centre_key, (5,))


def dynamics_of(rule, **more):
    def loss(key, params, task):
        return jnp.sum(task[0] * jnp.square(params - task[1]))

    return rules.training(rule, lambda key, task: jnp.zeros(5), loss, **more)


@pytest.mark.parametrize("name", RULES)
def test_its_meta_gradient_is_that_of_differences(name):
    rule = RULES[name]
    meta, task = disturbed(rule), bowls(jax.random.key(0))
    objective = whole(dynamics_of(rule), 6)

    @jax.jit
    def cost(meta):
        return objective(jax.random.key(0), meta, task)[0]

    gradient = jax.jit(jax.grad(cost))(meta)
    direction = optax.tree.random_like(jax.random.key(5), meta, jax.random.normal)
    along = optax.tree.vdot(gradient, direction)
    above, below = (
        cost(optax.tree.add_scale(meta, sign * 1e-3, direction)) for sign in (1, -1)
    )
    np.testing.assert_allclose((above - below) / 2e-3, along, rtol=2e-2, atol=1e-3)


def test_a_rule_is_meta_trained_through_windows_and_beats_its_start():
    rule = rules.per_parameter(4, rate=0.03)
    dynamics = dynamics_of(rule)
    meta_grad = persistent(dynamics, window=5, horizon=20, std=0.05, noise="reused")
    optimizer = optax.adam(1e-2)
    step = mj.train_step(meta_grad, optimizer)
    start = rule.init(jax.random.key(0))
    tests = jax.vmap(bowls)(jax.random.split(jax.random.key(9), 50))

    @jax.jit
    def cost(meta):
        estimate = backprop(whole(dynamics, 20))
        return estimate(jax.random.key(0), meta, tests)[0][0]

    before = cost(start)
    key = jax.random.key(0)
    carried = training.begin_carrying(key, meta_grad, start, bowls, 32)
    state = training.begin(key, start, optimizer, carried)
    state, metrics = mj.train(step, state, bowls, num_tasks=32, num_steps=150)
    assert not metrics["begun_anew"].any() and cost(state.meta) < 0.7 * before


def test_what_a_step_costs_may_be_another_loss():
    def judged(key, params, task):
        return jnp.float32(7)

    objective = whole(dynamics_of(RULES["scheduled_adam"], judged=judged), 3)
    meta = RULES["scheduled_adam"].init(jax.random.key(0))
    loss, metrics = objective(jax.random.key(0), meta, bowls(jax.random.key(0)))
    assert loss == 7 and metrics["train_loss"] > 0


def test_maml_by_a_rule_that_is_adam_still_is_maml_by_adam():
    rule, loss = RULES["per_parameter"], mj.losses.cross_entropy
    model = mj.models.mlp([6], 3)
    ours = mj.learned_rule(model, loss, rule, 3)
    adam = mj.maml(model, loss, optax.adam(0.01, eps_root=1e-16), 3)
    inputs = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    support = mj.Batch(inputs, np.arange(6) % 3)
    meta = ours.init(jax.random.key(0), inputs)._replace(rule=plain(rule))
    found = jax.jit(ours.adapt)(jax.random.key(0), meta, support)
    expected = jax.jit(adam.adapt)(jax.random.key(0), meta.params, support)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: rules.per_parameter(0), "positive: got 0 and 0.001"),
        (lambda: rules.per_parameter(rate=0.0), "positive: got 16 and 0.0"),
        (lambda: rules.recurrent(0), "positive: got 0"),
        (lambda: rules.scheduled_adam(0), "positive.*got 0"),
        (lambda: rules.scheduled_adam(5, knots=1), "knots two at least"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rule_that_needs_the_params_says_so():
    rule = RULES["per_parameter"]
    optimizer = rule.optimizer(rule.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="give them to optimizer.update"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


@pytest.mark.parametrize("name", RULES)
def test_an_exported_rule_is_the_rule_and_needs_optax_and_numpy_alone(name, tmp_path):
    rule, meta = RULES[name], disturbed(RULES[name])
    rules.export(rule, meta, tmp_path / "learned.py")
    tree = ast.parse((tmp_path / "learned.py").read_text())
    needed = {
        alias.name.partition(".")[0] if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert needed == {"jax", "numpy", "optax", "typing"}
    spec = importlib.util.spec_from_file_location("learned", tmp_path / "learned.py")
    learned = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(learned)
    found = moved(lambda meta: learned.optimizer(), None, PARAMS, gradients())
    expected = moved(rule.optimizer, meta, PARAMS, gradients())
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_what_is_no_rule_of_ours_is_not_exported(tmp_path):
    rule = RULES["per_parameter"]
    own = mj.base.Rule(rule.init, lambda meta: optax.sgd(meta))
    with pytest.raises(ValueError, match="of your own with trees.save"):
        rules.export(own, None, tmp_path / "learned.py")
    meta = rules.per_parameter(5).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"are \{'bias': \[4\].*these are.*\[5\]"):
        rules.export(rule, meta, tmp_path / "learned.py")
    assert not (tmp_path / "learned.py").exists()
