"""What functions require of their arguments, said in one line where it is not so.

Shapes and dtypes are known while tracing, so that these checks cost nothing at run time.
"""

import inspect
import operator
from typing import Any

import jax
from jax.core import Tracer
import jax.numpy as jnp
import numpy as np
import optax

from metajax.base import (
    Batch,
    Loss,
    MetaLearner,
    MetaParams,
    Metrics,
    Model,
    Objective,
    PyTree,
    Sampler,
    Task,
)


def described(value: Any) -> str:
    """An array by its dtype and shape, such as float32[5,3]; else the value's type."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return f"a {type(value).__name__}"
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def check_models(*models: Model) -> None:
    """Refuses what is not a `Model`, such as a module of a library."""
    for model in models:
        if not isinstance(model, Model):
            raise ValueError(
                "A model must be a metajax.Model, such as models.mlp(...), "
                "models.from_linen(module), models.from_nnx(build), or Model(init, apply) "
                f"of two functions: got {described(model)}."
            )


def check_losses(*losses: Loss) -> None:
    """Refuses what cannot be called with outputs, targets and a mask."""
    for loss in losses:
        if not _takes(loss, 3):
            raise ValueError(
                "A loss must be a function of (outputs, targets, mask), as those in "
                f"metajax.losses are: got {_function(loss)}."
            )


def check_objective(objective: Objective) -> None:
    """Refuses what cannot be called with a key, meta-parameters and a task."""
    if not _takes(objective, 3):
        raise ValueError(
            "An objective must be a function of (key, meta, task), such as query_loss("
            f"learner, loss): got {_function(objective)}."
        )


def _takes(function: Any, number: int) -> bool:
    """Whether it can be called with so many arguments, as far as Python knows."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*[None] * number)
    except TypeError:
        return False
    except ValueError:  # What is not written in Python may have no signature.
        pass
    return True


def _function(value: Any) -> str:
    if not callable(value):
        return described(value)
    return (
        f"{getattr(value, '__name__', type(value).__name__)}{inspect.signature(value)}"
    )


def check_optimizer(optimizer: optax.GradientTransformation) -> None:
    """Refuses what is not an optax transformation, such as a rate."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "An optimizer must be an optax transformation, such as optax.sgd(0.1): got "
            f"{described(optimizer)}."
        )


def check_learner(learner: MetaLearner) -> None:
    """Refuses what is not a `MetaLearner`, such as the model it is to be made of."""
    if not isinstance(learner, MetaLearner):
        raise ValueError(
            "A learner must be a metajax.MetaLearner, such as maml(...) or MetaLearner("
            f"init, adapt, predict) of three functions: got {described(learner)}."
        )


def check_sampler(sampler: Sampler) -> None:
    """Refuses what cannot draw tasks."""
    if not callable(sampler):
        raise ValueError(
            "A sampler must be a function from a key to a Task, such as data.FewShot(...): "
            f"got {described(sampler)}."
        )


def check_num_steps(num_steps: int) -> None:
    """Refuses a number of inner steps that is none."""
    try:
        operator.index(num_steps)
    except TypeError:
        raise ValueError(
            f"num_steps must be an integer, the number of inner steps: got "
            f"{described(num_steps)}."
        ) from None


def check_result(result: tuple[jax.Array, Metrics]) -> tuple[jax.Array, Metrics]:
    """What an objective has returned, if it is a loss and metrics."""
    pair = isinstance(result, tuple) and len(result) == 2
    if pair and np.shape(result[0]) == () and isinstance(result[1], dict):
        return result
    found = f"({', '.join(map(described, result))})" if pair else described(result)
    raise ValueError(
        "An objective must return (loss, metrics), a scalar and a dict of arrays by name, "
        f"as query_loss makes one: got {found}."
    )


def checked(objective: Objective) -> Objective:
    """An objective whose result is checked while it is traced."""
    check_objective(objective)
    return lambda key, meta, task: check_result(objective(key, meta, task))


def check_estimate(estimate: PyTree) -> PyTree:
    """What an estimator has returned, if it is a loss, metrics and a gradient."""
    if isinstance(estimate, tuple) and len(estimate) == 2:
        if isinstance(estimate[0], tuple) and len(estimate[0]) == 2:
            return estimate
    raise ValueError(
        "An estimator must return ((loss, metrics), gradient): make one of an objective, "
        "such as estimators.backprop(objective)."
    )


def check_opt_state(
    optimizer: optax.GradientTransformation, meta: MetaParams, state: optax.OptState
) -> None:
    """Refuses the state of another optimizer."""

    def kinds(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

    if kinds(jax.eval_shape(optimizer.init, meta)) != kinds(state):
        raise ValueError(
            "The state is of another optimizer, or of other meta-parameters: give "
            "init_state and train_step the same optimizer."
        )


def check_tasks(tasks: Task) -> None:
    """Refuses tasks, leaves `[tasks, ...]`, whose fields do not fit each other.

    Objectives of one's own may have tasks of their own: those are left alone.
    """
    if isinstance(tasks, Task) and all(isinstance(each, Batch) for each in tasks):
        struct = jax.ShapeDtypeStruct
        check_task(jax.tree.map(lambda x: struct(x.shape[1:], x.dtype), tasks))


def check_task(task: Task) -> None:
    """Refuses what is not a task, or one whose fields do not fit each other."""
    if not isinstance(task, Task):
        raise ValueError(
            "A sampler must return a metajax.Task(support, query) of two batches: got "
            f"{described(task)}."
        )
    for name, batch in task._asdict().items():
        _check_batch(f"task.{name}", batch)
    for field in ("inputs", "targets"):
        support, query = (_kinds(getattr(batch, field)) for batch in task)
        if support != query:
            raise ValueError(
                f"task.support.{field} and task.query.{field} must be alike in dtype and "
                f"axes: got {support} and {query}."
            )


def _kinds(tree: PyTree) -> str:
    """Dtypes and numbers of axes, such as float32[:,:]."""
    kinds = jax.tree.map(lambda x: f"{x.dtype}[{','.join(':' * x.ndim)}]", tree)
    return str(kinds).replace("'", "")


def _check_batch(name: str, batch: Batch) -> None:
    if not isinstance(batch, Batch):
        raise ValueError(
            f"{name} must be a metajax.Batch(inputs, targets, mask): got "
            f"{described(batch)}."
        )
    leaves = jax.tree.leaves((batch.inputs, batch.targets))
    sizes = {leaf.shape[:1] for leaf in leaves}
    if len(sizes) > 1 or () in sizes:
        inputs, targets = (
            ", ".join(map(described, jax.tree.leaves(field))) for field in batch[:2]
        )
        raise ValueError(
            f"{name}: inputs and targets must have one row an example, [examples, ...] "
            f"both: got inputs {inputs} and targets {targets}."
        )
    for (examples,) in sizes:
        check_mask(f"{name}.mask", batch.mask, examples)


def check_mask(name: str, mask: jax.Array | None, examples: int) -> None:
    """Refuses a mask that is not one boolean an example."""
    if mask is not None and (mask.shape != (examples,) or mask.dtype != bool):
        raise ValueError(
            f"{name} must be bool[{examples}], True for real examples: got "
            f"{described(mask)}."
        )


def check_outputs(outputs: PyTree, query: Batch) -> None:
    """Refuses predictions that are not one row for each query input."""
    targets = jax.tree.leaves(query.targets)
    examples = targets[0].shape[:1] if targets else None
    for leaf in jax.tree.leaves(outputs):
        if examples is not None and jnp.shape(leaf)[:1] != examples:
            raise ValueError(
                f"predict must return one row for each of the {examples[0]} query inputs, "
                f"[{examples[0]}, ...]: got {described(leaf)}."
            )


def check_labels(
    name: str,
    labels: jax.Array,
    shape: tuple[int, ...],
    ways: int,
    mask: jax.Array | None,
) -> None:
    """Refuses labels that are not integers of a shape, from 0 to `ways - 1`.

    Their values are checked where they are known, which under `jit` they are not.
    """
    if jnp.shape(labels) != shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{name}: targets must be class labels, int32[{','.join(map(str, shape))}]: "
            f"got {described(labels)}; those of one-hot rows are argmax(targets, axis=-1)."
        )
    check_mask(f"{name}: mask", mask, len(labels))
    if any(isinstance(each, Tracer) for each in (labels, mask)):
        return
    real = np.asarray(labels) if mask is None else np.asarray(labels)[np.asarray(mask)]
    strange = np.unique(real[(real < 0) | (real >= ways)])
    if strange.size:
        raise ValueError(
            f"{name}: labels of {ways} classes must be from 0 to {ways - 1}: got "
            f"{', '.join(map(str, strange))}."
        )


def check_logits(
    name: str, outputs: jax.Array, targets: jax.Array, mask: jax.Array | None
) -> None:
    """Refuses anything but logits, `[examples, ..., ways]`, and a label for each row."""
    if jnp.ndim(outputs) < 2 or not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(
            f"{name}: outputs must be logits [examples, ..., ways], floats: got "
            f"{described(outputs)}."
        )
    check_labels(name, targets, outputs.shape[:-1], outputs.shape[-1], mask)


def check_values(
    name: str,
    outputs: tuple[jax.Array, ...],
    targets: jax.Array,
    mask: jax.Array | None,
) -> None:
    """Refuses outputs that are not of the shape of the targets, `[examples, ...]`."""
    for each in outputs:
        if jnp.shape(each) != jnp.shape(targets) or not jnp.ndim(targets):
            raise ValueError(
                f"{name}: outputs and targets must have the same shape [examples, ...]: "
                f"{described(each)} and {described(targets)} differ."
            )
    check_mask(f"{name}: mask", mask, len(targets))
