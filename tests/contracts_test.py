"""Mistakes are answered in one line, before anything is compiled."""

from functools import partial

import chex
from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import learners, losses

WAYS = 3
MODEL, EMBEDDING = mj.models.mlp([4], WAYS), mj.models.mlp([4], None)
LOSS, SGD = losses.cross_entropy, optax.sgd(0.1)
LEARNER = mj.protonet(EMBEDDING, WAYS)
OBJECTIVE = mj.query_loss(LEARNER, LOSS, accuracy=losses.accuracy)


def sampler(key, **changes):
    """A task of a few labels, or one of which some fields are changed."""
    keys = jax.random.split(key)
    labels = jnp.arange(6) % WAYS
    support, query = (mj.Batch(jax.random.normal(k, (6, 5)), labels) for k in keys)
    changed = {"support": support, "query": query}
    for path, change in changes.items():
        batch, field = path.split("_")
        value = change(getattr(changed[batch], field))
        changed[batch] = changed[batch]._replace(**{field: value})
    return mj.Task(**changed)


def state(learner=LEARNER):
    return mj.init_state(jax.random.key(0), learner, SGD, sampler)


def train(objective=OBJECTIVE, draw=sampler, optimizer=SGD, start=None):
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    start = start or state()
    return mj.train(step, start, draw, num_tasks=2, num_steps=1)


def evaluate(objective=OBJECTIVE, draw=sampler):
    meta = state().meta
    return mj.evaluate(objective, meta, draw, key=jax.random.key(0), num_tasks=2)


def mask(values):
    return lambda field: jnp.asarray(values)


REAL = [True] * 5 + [False]
BAD_TASKS = {
    "query mask of one": (
        {"query_mask": mask([True])},
        r"task.query.mask must be bool\[6",
    ),
    "query mask of columns": (
        {"query_mask": mask([[each] for each in REAL])},
        r"task.query.mask must be bool\[6\], .*: got bool\[6,1\]",
    ),
    "query mask of floats": (
        {"query_mask": mask(np.float32(REAL))},
        r"task.query.mask must be bool.*: got float32\[6\]",
    ),
    "support mask of one": (
        {"support_mask": mask([True])},
        "task.support.mask must be",
    ),
    "support mask of twos": (
        {"support_mask": mask([2] * 6)},
        r"task.support.mask must be bool.*: got int32\[6\]",
    ),
    "one target": (
        {"support_targets": lambda x: x[:1]},
        r"task.support: .*: got inputs float32\[6,5\] and targets int32\[1\]",
    ),
    "too many inputs": (
        {"query_inputs": lambda x: jnp.concatenate([x, x])},
        r"task.query: inputs and targets must have one row an example",
    ),
    "targets without axis": (
        {"query_targets": lambda x: x[0]},
        "task.query: inputs and",
    ),
    "float targets in support": (
        {"support_targets": lambda x: x.astype(jnp.float32)},
        r"task.support.targets and task.query.targets must be alike in dtype and axes: "
        r"got float32\[:\] and int32\[:\]",
    ),
    "float targets": (
        {
            "support_targets": lambda x: x.astype(jnp.float32),
            "query_targets": lambda x: x.astype(jnp.float32),
        },
        r"targets must be class labels, int32\[6\]: got float32\[6\]",
    ),
    "inputs of two kinds": (
        {"query_inputs": lambda x: x.astype(jnp.uint8)},
        r"task.support.inputs and task.query.inputs must be alike .* uint8\[:,:\]",
    ),
}


@pytest.mark.parametrize("name", BAD_TASKS)
@pytest.mark.parametrize("run", [train, evaluate])
def test_a_task_whose_fields_do_not_fit_is_refused_by_the_name_of_the_field(name, run):
    changes, message = BAD_TASKS[name]
    with pytest.raises(ValueError, match=message):
        run(draw=partial(sampler, **changes))


@pytest.mark.parametrize(
    "make",
    [
        mj.estimators.forward_mode,
        partial(mj.estimators.evolution, num_pairs=1, std=0.1),
        lambda objective: mj.estimators.displacement(
            mj.reptile(MODEL, LOSS, SGD, 1), LOSS
        ),
    ],
)
def test_every_estimator_checks_its_tasks(make):
    draw = jax.vmap(partial(sampler, support_mask=mask([True])))
    tasks = draw(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(ValueError, match="task.support.mask must be bool"):
        make(OBJECTIVE)(jax.random.key(0), None, tasks)


def test_tasks_that_fit_are_taken_with_masks_of_booleans():
    fit = partial(sampler, support_mask=mask(REAL), query_mask=mask(REAL))
    assert np.isfinite(evaluate(draw=fit).values["accuracy"]).all()
    train(draw=fit)


def few_rows(meta, adapted, inputs):
    return LEARNER.predict(meta, adapted, inputs)[:2]


def no_rows(meta, adapted, inputs):
    return LEARNER.predict(meta, adapted, inputs)[0, 0]


@pytest.mark.parametrize("predict, found", [(few_rows, "2,3"), (no_rows, "")])
@pytest.mark.parametrize("run", [train, evaluate])
def test_predictions_must_be_as_many_as_inputs(predict, found, run):
    def lenient(outputs, targets, mask=None):
        return jnp.mean(outputs)

    wrong = mj.query_loss(LEARNER._replace(predict=predict), lenient)
    message = rf"one row for each of the 6 query inputs.*: got float32\[{found}\]"
    with pytest.raises(ValueError, match=message):
        run(wrong)


def without_mask(outputs, targets):
    return LOSS(outputs, targets)


def loss_alone(key, meta, task):
    return OBJECTIVE(key, meta, task)[0]


def vector(key, meta, task):
    loss, metrics = OBJECTIVE(key, meta, task)
    return loss[None], metrics


MODULE = nn.Dense(WAYS)
NO_MODELS = {
    "a linen module": lambda: mj.maml(MODULE, LOSS, SGD, 1),
    "an nnx module": lambda: mj.protonet(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), WAYS),
    "a tuple": lambda: mj.anil((MODEL.init, MODEL.apply), LOSS, SGD, 1),
    "swapped": lambda: mj.maml(LOSS, MODEL, SGD, 1),
    "cavia": lambda: mj.cavia(MODULE, LOSS, SGD, 1, num_context=2),
    "reptile": lambda: mj.reptile(MODULE, LOSS, SGD, 1),
    "reader": lambda: mj.in_context(EMBEDDING, MODULE),
    "decoder": lambda: mj.cnp(EMBEDDING, MODULE),
    "keys": lambda: mj.anp(EMBEDDING, EMBEDDING, MODULE),
    "generator": lambda: mj.hypernetwork(MODEL, EMBEDDING, MODULE, WAYS),
    "relation": lambda: mj.relation_net(EMBEDDING, MODULE, WAYS),
    "context": lambda: mj.matching_net(EMBEDDING, WAYS, context=(MODULE, MODULE)),
    "classifier": lambda: mj.classifier(MODULE),
    "head": lambda: learners.fitting_head(MODULE, WAYS, None, None),
}


@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_model_is_refused_where_a_learner_is_made(name):
    with pytest.raises(
        ValueError, match="^A model must be a metajax.Model, .*: got a "
    ):
        NO_MODELS[name]()


NO_OPTIMIZER = "An optimizer must be an optax transformation, such as .*: got a float"
NO_LOSS = r"A loss must be a function of \(outputs, targets, mask\).*: got "
NO_OBJECTIVE = r"An objective must be a function of \(key, meta, task\), .*: got "
NO_RESULT = r"An objective must return \(loss, metrics\).*: got "
MISTAKES = {
    "maml's rate": (lambda: mj.maml(MODEL, LOSS, 0.1, 1), NO_OPTIMIZER),
    "reptile's rate": (lambda: mj.reptile(MODEL, LOSS, 0.1, 1), NO_OPTIMIZER),
    "curvature's rate": (lambda: mj.meta_curvature(MODEL, LOSS, 0.1, 1), NO_OPTIMIZER),
    "outer rate": (lambda: mj.train_step(lambda *a: None, 0.1), NO_OPTIMIZER),
    "steps": (lambda: mj.maml(MODEL, LOSS, SGD, 1.5), "num_steps must be an integer"),
    "inner loss": (
        lambda: mj.maml(MODEL, without_mask, SGD, 1),
        NO_LOSS + r"without_mask\(outputs, targets\)",
    ),
    "optimizer for a loss": (lambda: mj.maml(MODEL, SGD, LOSS, 1), NO_LOSS),
    "query loss": (lambda: mj.query_loss(LEARNER, without_mask), NO_LOSS),
    "metric": (lambda: mj.query_loss(LEARNER, LOSS, accuracy=0.5), NO_LOSS + "a float"),
    "displacement": (lambda: mj.estimators.displacement(LEARNER, without_mask), NO_LOSS),
    "multi-step": (lambda: mj.multi_step_loss(LEARNER, without_mask, None), NO_LOSS),
    "model for a learner": (
        lambda: mj.query_loss(MODEL, LOSS),
        "A learner must be a metajax.MetaLearner, .*: got a Model",
    ),
    "learner for an objective": (lambda: mj.estimators.backprop(LEARNER), NO_OBJECTIVE),
    "learner evaluated": (lambda: evaluate(LEARNER), NO_OBJECTIVE),
    "loss alone": (lambda: train(loss_alone), NO_RESULT + r"float32\[\]"),
    "loss alone evaluated": (lambda: evaluate(loss_alone), NO_RESULT),
    "loss of many": (lambda: train(vector), NO_RESULT + r"\(float32\[1\], a dict\)"),
    "objective for an estimator": (
        lambda: mj.train(
            mj.train_step(jax.vmap(OBJECTIVE, (None, None, 0)), SGD),
            state(),
            sampler,
            num_tasks=2,
            num_steps=1,
        ),
        r"An estimator must return \(\(loss, metrics\), gradient\)",
    ),
    "init_state swapped": (
        lambda: mj.init_state(jax.random.key(0), SGD, LEARNER, sampler),
        "A learner must be a metajax.MetaLearner, .*: got a GradientTransformation",
    ),
    "sampler first": (
        lambda: mj.init_state(jax.random.key(0), LEARNER, sampler, SGD),
        "An optimizer must be an optax transformation, .*: got a function",
    ),
    "seed": (lambda: mj.init_state(0, LEARNER, SGD, sampler), r"jax.random.key\(seed\)"),
    "no sampler": (
        lambda: mj.init_state(jax.random.key(0), LEARNER, SGD, MODEL.init(
            jax.random.key(0), jnp.ones((1, 5))
        )),
        "A sampler must be a function from a key to a Task, .*: got a dict",
    ),
    "no task": (
        lambda: mj.init_state(jax.random.key(0), LEARNER, SGD, lambda key: {}),
        r"A sampler must return a metajax.Task\(support, query\).*: got a dict",
    ),
    "no batch": (
        lambda: mj.init_state(
            jax.random.key(0), LEARNER, SGD, lambda key: mj.Task((1, 2), (1, 2))
        ),
        r"task.support must be a metajax.Batch\(inputs, targets, mask\): got a tuple",
    ),
    "no tasks": (
        lambda: mj.train(
            mj.train_step(mj.estimators.backprop(OBJECTIVE), SGD),
            state(),
            sampler,
            num_tasks=0,
            num_steps=1,
        ),
        "at least one task an outer step.*: got num_tasks=0, num_steps=1",
    ),
    "meta for a state": (lambda: train(start=state().meta), "starts from a TrainState"),
    "state for meta": (
        lambda: mj.evaluate(
            OBJECTIVE, state(), sampler, key=jax.random.key(0), num_tasks=2
        ),
        "give it state.meta",
    ),
    "another optimizer": (
        lambda: train(optimizer=optax.adam(0.1)),
        "of another optimizer.*: give init_state and train_step the same",
    ),
    "another learner": (
        lambda: train(start=state()._replace(opt_state=optax.adam(0.1).init(1.0))),
        "of another optimizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line(name):
    make, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_state_is_used_once_unless_it_is_copied():
    first = state()
    copy = jax.tree.map(jnp.copy, first)
    expected, _ = train(start=first)
    with pytest.raises(
        ValueError, match="was given to train before, .*state that train"
    ):
        train(start=first)
    again, _ = train(start=copy)
    chex.assert_trees_all_equal(again.meta, expected.meta)


def test_an_objective_made_anew_of_the_same_parts_is_not_traced_again():
    loss = chex.assert_max_traces(LOSS, n=1)
    chex.clear_trace_counter()
    for _ in range(3):
        values = evaluate(mj.query_loss(LEARNER, loss, again=losses.accuracy)).values
    assert set(values) == {"loss", "again"}
    other = mj.query_loss(LEARNER, losses.cross_entropy)
    assert other == mj.query_loss(LEARNER, losses.cross_entropy)
    assert other != mj.query_loss(LEARNER, losses.accuracy)
    assert other != mj.query_loss(mj.protonet(EMBEDDING, WAYS), losses.cross_entropy)
