"""Meta-training: the outer loop as one compiled scan that draws its own tasks."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import trees
from metajax.base import (
    Estimator,
    Key,
    MetaLearner,
    MetaParams,
    Metrics,
    PyTree,
    Sampler,
    Task,
)

_DRAWN_BYTES = 1 << 20  # Of tasks that wait for their step.


class TrainState(NamedTuple):
    """What meta-training needs to go on: save it, and resume from it."""

    step: jax.Array  # Outer steps taken, int32.
    key: Key  # Fixes the stream of tasks; never changes.
    meta: MetaParams
    opt_state: optax.OptState


TrainStep = Callable[[TrainState, Task], tuple[TrainState, Metrics]]


def init_state(
    key: Key,
    learner: MetaLearner,
    optimizer: optax.GradientTransformation,
    sampler: Sampler,
) -> TrainState:
    """The state before the first outer step.

    Args:
      key: fixes the initial meta-parameters and the whole stream of tasks.
      learner: the meta-learner.
      optimizer: the outer optimizer.
      sampler: draws tasks; one is drawn to learn the shape of inputs.

    Returns:
      A state at step 0.
    """
    return _init_state(learner, optimizer, key, as_pytree(sampler))


@partial(jax.jit, static_argnums=(0, 1))
def _init_state(learner, optimizer, key, sampler) -> TrainState:
    init_key, train_key = jax.random.split(key)
    meta = learner.init(init_key, sampler(init_key).support.inputs)
    state = TrainState(jnp.int32(0), train_key, meta, optimizer.init(meta))
    # Training gives these buffers up, so that each must be its own and nobody else's.
    return jax.tree.map(jnp.copy, state)


def draw_tasks(key: Key, sampler: Sampler, indices: jax.Array) -> Task:
    """Draws the tasks of a stream: task `i` is `sampler(fold_in(key, i))`.

    Args:
      key: fixes the stream.
      sampler: draws one task from a key.
      indices: which tasks of the stream, `[tasks]`.

    Returns:
      The tasks stacked, leaves `[tasks, ...]`.
    """
    return jax.vmap(lambda i: sampler(jax.random.fold_in(key, i)))(indices)


def train_step(
    meta_grad: Estimator, optimizer: optax.GradientTransformation
) -> TrainStep:
    """One outer step: estimate the meta-gradient, update the meta-parameters.

    Args:
      meta_grad: an estimator of the meta-gradient.
      optimizer: the outer optimizer, any optax transformation.

    Returns:
      A pure function `(state, tasks) -> (state, metrics)`. The metrics are those of the
      objective, averaged over tasks, and `grad_norm`, the global norm of the
      meta-gradient. Where loss, gradient or update is not finite the state comes back
      unchanged, step included: `state.step` then names the step that failed, and
      training cannot go past it.
    """

    def step(state: TrainState, tasks: Task) -> tuple[TrainState, Metrics]:
        _, key = _step_keys(state.key, state.step)
        (loss, metrics), grads = meta_grad(key, state.meta, tasks)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.meta)
        meta = optax.apply_updates(state.meta, updates)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss + grad_norm + optax.tree.norm(updates))
        after = TrainState(state.step + 1, state.key, meta, opt_state)
        return trees.select(finite, after, state), metrics | {"grad_norm": grad_norm}

    return step


def scheduled_step(
    meta_grad_at: Callable[[jax.Array], Estimator],
    optimizer: optax.GradientTransformation,
) -> TrainStep:
    """One outer step, of an estimator that changes as training goes on.

    Args:
      meta_grad_at: from the outer step, an int32 scalar that is traced, to an estimator
        of the meta-gradient: a weight in its loss may fall with the step, or
        `estimators.before` may choose between two.
      optimizer: the outer optimizer, any optax transformation.

    Returns:
      As `train_step`.

    Example:
      The multi-step loss of MAML++ over five inner steps:

      >>> def meta_grad_at(step):  # doctest: +SKIP
      ...     weights = step_weights(step, num_steps=5, anneal_steps=5000)
      ...     objective = multi_step_loss(learner, loss, weights)
      ...     return estimators.backprop(objective)
      >>> step = scheduled_step(meta_grad_at, optax.adam(1e-3))  # doctest: +SKIP
    """

    def step(state: TrainState, tasks: Task) -> tuple[TrainState, Metrics]:
        return train_step(meta_grad_at(state.step), optimizer)(state, tasks)

    return step


def train(
    step: TrainStep,
    state: TrainState,
    sampler: Sampler,
    *,
    num_tasks: int,
    num_steps: int,
) -> tuple[TrainState, Metrics]:
    """Runs outer steps as one compiled scan, tasks drawn inside it.

    Called again with the same `step` it does not trace again, and training `2n` steps
    equals training `n` twice.

    Args:
      step: from `train_step`.
      state: where to start; its buffers are given up to the result.
      sampler: draws one task from a key: a registered dataclass if it holds arrays, or
        a plain function.
      num_tasks: tasks an outer step.
      num_steps: outer steps.

    Returns:
      The state after them, and metrics of every step, `[num_steps]` each. If
      `state.step` is less than `num_steps` further, that step was not finite.

    Example:
      >>> state, metrics = train(  # doctest: +SKIP
      ...     step, state, sampler, num_tasks=25, num_steps=1000
      ... )
    """
    return _train(step, num_tasks, num_steps, state, as_pytree(sampler))


def trace(
    step: TrainStep,
    state: TrainState,
    sampler: Sampler,
    *,
    num_tasks: int,
    num_steps: int,
) -> jax.stages.Traced:
    """Traces what `train` would run with the same arguments, and runs nothing.

    What cannot be differentiated is found here. `.lower().compile()` of the result
    compiles it, and says what memory it needs; a call of `train` then finds it compiled.

    Args:
      step: as in `train`, like the others.
      state: arrays, or their shapes and dtypes.
      sampler: draws one task from a key.
      num_tasks: tasks an outer step.
      num_steps: outer steps.

    Returns:
      The traced program.
    """
    return _train.trace(step, num_tasks, num_steps, state, as_pytree(sampler))


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _train(
    step: TrainStep, num_tasks: int, num_steps: int, state: TrainState, sampler: Sampler
):
    def draw(key, index):
        task_key, _ = _step_keys(key, index)
        return draw_tasks(task_key, sampler, jnp.arange(num_tasks))

    ahead = _steps_ahead(jax.eval_shape(draw, state.key, state.step), num_steps)

    def steps(state, _):
        first = state.step
        tasks = jax.vmap(draw, (None, 0))(state.key, first + jnp.arange(ahead))

        def one(state, _):
            # By the step's number, so that one that failed meets its own tasks again.
            return step(state, jax.tree.map(lambda x: x[state.step - first], tasks))

        return jax.lax.scan(one, state, length=ahead)

    state, metrics = jax.lax.scan(steps, state, length=num_steps // ahead)
    flat = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), metrics)
    return state, flat


def _steps_ahead(tasks: Task, num_steps: int) -> int:
    """For how many steps tasks are drawn at once: it divides the number of all steps.

    To draw many small tasks takes little more time than to draw a few.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tasks))
    most = min(num_steps, _DRAWN_BYTES // max(size, 1))
    return next((n for n in range(most, 0, -1) if num_steps % n == 0), 1)


def _step_keys(key: Key, step: jax.Array) -> Key:
    """The keys of one step: that of its tasks, and that of its estimator."""
    return jax.random.split(jax.random.fold_in(key, step))


def as_pytree(sampler: Sampler) -> PyTree:
    """The sampler as an argument for jit; a plain function becomes a static part of it."""
    if jax.tree_util.all_leaves([sampler]):
        return jax.tree_util.Partial(sampler)
    return sampler
