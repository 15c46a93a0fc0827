"""Meta-training: the outer loop as one compiled scan that draws its own tasks."""

from functools import partial
from typing import NamedTuple

import jax
from jax.core import Tracer
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from metajax import contracts
from metajax.base import (
    Carrying,
    Key,
    MetaLearner,
    MetaParams,
    Metrics,
    PyTree,
    Sampler,
    Task,
)
from metajax.steps import TrainState, TrainStep
from metajax.streams import as_pytree, step_keys, step_tasks, threefry
from metajax.tracing import trace_once

_DRAWN_BYTES = 1 << 20  # Of tasks that wait for their step.


class Seeds(NamedTuple):
    """How one program trains the states of several seeds."""

    at_a_time: int | None = None  # By one device; None takes all side by side.
    mesh: Mesh | None = None  # Devices that divide the seeds, along its only axis.


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

    Raises:
      ValueError: if one of the four is something else.
    """
    contracts.check_learner(learner)
    contracts.check_optimizer(optimizer)
    contracts.check_sampler(sampler)
    return _init_state(learner, optimizer, threefry(key), as_pytree(sampler))


@partial(jax.jit, static_argnums=(0, 1))
def _init_state(learner, optimizer, key, sampler) -> TrainState:
    init_key, train_key = jax.random.split(key)
    # Which inputs they are does not matter, but no key is to be used twice.
    task = sampler(jax.random.fold_in(init_key, 0))
    contracts.check_task(task)
    meta = learner.init(init_key, task.support.inputs)
    return begin(train_key, meta, optimizer)


def begin(
    key: Key,
    meta: MetaParams,
    optimizer: optax.GradientTransformation,
    carried: PyTree = (),
) -> TrainState:
    """The state before the first outer step, of meta-parameters that are there.

    Args:
      key: fixes the stream of tasks.
      meta: the meta-parameters.
      optimizer: the outer optimizer.
      carried: of an estimator with a memory, from `begin_carrying`.

    Returns:
      A state at step 0.
    """
    state = TrainState(jnp.int32(0), key, meta, optimizer.init(meta), carried=carried)
    # Training gives these buffers up, so that each must be its own and nobody else's.
    return jax.tree.map(jnp.copy, state)


def begin_carrying(
    key: Key, carrying: Carrying, meta: MetaParams, sampler: Sampler, num_tasks: int
) -> PyTree:
    """What an estimator with a memory carries before the first outer step.

    Args:
      key: fixes the stream of tasks; that of `begin`.
      carrying: the estimator.
      meta: the meta-parameters.
      sampler: draws one task from a key.
      num_tasks: tasks an outer step.

    Returns:
      What `begin` puts into the state.

    Example:
      >>> carried = begin_carrying(key, meta_grad, meta, sampler, 8)  # doctest: +SKIP
      >>> state = begin(key, meta, optimizer, carried)  # doctest: +SKIP
    """
    contracts.check_sampler(sampler)
    return _begin_carrying(carrying, num_tasks, key, meta, as_pytree(sampler))


@partial(jax.jit, static_argnums=(0, 1))
def _begin_carrying(carrying, num_tasks, key, meta, sampler) -> PyTree:
    before = jnp.uint32(2**32 - 1)  # No step has this number.
    _, begin_key = step_keys(key, before)
    tasks = step_tasks(key, before, sampler, num_tasks)
    return carrying.begin(begin_key, meta, tasks)


def divided(tree: PyTree, mesh: Mesh) -> PyTree:
    """How devices divide arrays that are too large for each to hold.

    Args:
      tree: arrays, or their shapes and dtypes.
      mesh: the devices, along its only axis.

    Returns:
      A sharding for each array: along the largest of the axes that the devices divide
      evenly; whole on each where there is none.

    Example:
      >>> state = jax.device_put(state, divided(state, mesh))  # doctest: +SKIP
      >>> step = keep_divided(step, mesh)  # doctest: +SKIP
    """

    def sharding(leaf) -> NamedSharding:
        shape = jnp.shape(leaf)
        even = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
        if not even:
            return NamedSharding(mesh, PartitionSpec())
        before = [None] * max(even, key=shape.__getitem__)
        return NamedSharding(mesh, PartitionSpec(*before, devices))

    (devices,) = mesh.axis_names

    return jax.tree.map(sharding, tree)


def keep_divided(step: TrainStep, mesh: Mesh) -> TrainStep:
    """A step whose state stays divided among devices.

    They put parameters together for a step and let go of them after it; each updates its
    own part of them and of the optimizer's state, which is all that it holds in between.

    Args:
      step: from `train_step`, with an estimator that has the same mesh.
      mesh: the devices.

    Returns:
      As `train_step`; the state is to be put where `divided` says.

    Source:
      Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 5, in the compiler's way.
    """

    def kept(state: TrainState, tasks: Task) -> tuple[TrainState, Metrics]:
        state, metrics = step(state, tasks)
        return jax.lax.with_sharding_constraint(state, divided(state, mesh)), metrics

    return kept


def train(
    step: TrainStep,
    state: TrainState,
    sampler: Sampler,
    *,
    num_tasks: int,
    num_steps: int,
    at_most: int | None = None,
    seeds: Seeds | None = None,
) -> tuple[TrainState, Metrics]:
    """Runs outer steps as one compiled loop, tasks drawn inside it.

    Called again with the same `step` it does not trace again (the program of each other
    one is kept: make it before a loop, not in it), and training `2n` steps
    equals training `n` twice, bit for bit.

    Args:
      step: from `train_step`.
      state: where to start; its buffers are given up to the result.
      sampler: draws one task from a key: a registered dataclass if it holds arrays, or
        a plain function.
      num_tasks: tasks an outer step.
      num_steps: outer steps.
      at_most: compiles one program for any number of steps up to this one, rather than
        one for each number.
      seeds: if given, `state` is a stack of states, leaves `[seeds, ...]`, and each is
        trained by itself. If devices divide them, they must do so evenly, and the
        estimator of the step must have no mesh.

    Returns:
      The state after them, and metrics of every step, `[num_steps]` each, with seeds
      `[seeds, num_steps]`. If `state.step` is less than `num_steps` further, that step
      and those before it, as many as may be skipped, were not finite.

    Raises:
      ValueError: if there are more steps than `at_most`, no task or no seeds at a time,
        or if the state was given to `train` before.

    Example:
      >>> state, metrics = train(  # doctest: +SKIP
      ...     step, state, sampler, num_tasks=25, num_steps=1000
      ... )

      Eight seeds in one program, side by side:

      >>> keys = jax.random.split(jax.random.key(0), 8)  # doctest: +SKIP
      >>> states = [  # doctest: +SKIP
      ...     init_state(key, learner, optimizer, sampler) for key in keys
      ... ]
      >>> states, metrics = train(  # doctest: +SKIP
      ...     step,
      ...     jax.tree.map(lambda *leaves: jnp.stack(leaves), *states),
      ...     sampler,
      ...     num_tasks=25,
      ...     num_steps=1000,
      ...     seeds=Seeds(),
      ... )
    """
    _check_state(state)
    contracts.check_sampler(sampler)
    if num_tasks < 1 or num_steps < 0:
        raise ValueError(
            "train needs at least one task an outer step, and no negative number of "
            f"steps: got num_tasks={num_tasks}, num_steps={num_steps}."
        )
    if at_most is None:
        at_most = max(num_steps, 1)
    if num_steps > at_most:
        raise ValueError(f"num_steps={num_steps} is more than at_most={at_most}.")
    if seeds is not None and seeds.at_a_time is not None and seeds.at_a_time < 1:
        raise ValueError(f"at_a_time must be at least 1: got {seeds.at_a_time}.")
    state, metrics = _train(
        step, num_tasks, at_most, seeds, state, as_pytree(sampler), np.int32(num_steps)
    )
    if num_steps < at_most:
        metrics = jax.tree.map(lambda x: x[..., :num_steps], metrics)
    return state, metrics


def trace(
    step: TrainStep,
    state: TrainState,
    sampler: Sampler,
    *,
    num_tasks: int,
    at_most: int,
    seeds: Seeds | None = None,
) -> jax.stages.Traced:
    """Traces what `train` would run with the same arguments, and runs nothing.

    What cannot be differentiated is found here. `.lower().compile()` of the result
    compiles it, and says what memory it needs; a call of `train` then finds it compiled.

    Args:
      step: as in `train`, like the others.
      state: arrays, or their shapes and dtypes.
      sampler: draws one task from a key.
      num_tasks: tasks an outer step.
      at_most: outer steps, at most.
      seeds: as in `train`.

    Returns:
      The traced program.
    """
    return _train.trace(
        step, num_tasks, at_most, seeds, state, as_pytree(sampler), np.int32(at_most)
    )


def _check_state(state: TrainState) -> None:
    if not isinstance(state, TrainState):
        raise ValueError(
            "train starts from a TrainState, as init_state makes one: got "
            f"{contracts.described(state)}."
        )
    arrays = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array)]
    if any(not isinstance(x, Tracer) and x.is_deleted() for x in arrays):
        raise ValueError(
            "This state was given to train before, which took its buffers: go on from the "
            "state that train returned, or train from jax.tree.map(jnp.copy, state)."
        )


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _train(
    step: TrainStep,
    num_tasks: int,
    at_most: int,
    seeds: Seeds | None,
    state: TrainState,
    sampler: Sampler,
    num_steps: jax.Array,
):
    run = partial(_run, step, num_tasks, at_most)
    if seeds is None:
        return run(state, sampler, num_steps)

    def run_each(states, sampler, num_steps):
        each = partial(run, sampler=sampler, num_steps=num_steps)
        if seeds.at_a_time is None:
            return jax.vmap(each)(states)
        if seeds.at_a_time == 1:
            return jax.lax.map(each, states)
        return jax.lax.map(each, states, batch_size=seeds.at_a_time)

    if seeds.mesh is not None:
        all_of_it, by_seed = PartitionSpec(), PartitionSpec(seeds.mesh.axis_names)
        run_each = jax.shard_map(
            run_each,
            mesh=seeds.mesh,
            in_specs=(by_seed, all_of_it, all_of_it),
            out_specs=by_seed,
            check_vma=False,
        )
    return run_each(state, sampler, num_steps)


def _run(
    step: TrainStep,
    num_tasks: int,
    at_most: int,
    state: TrainState,
    sampler: Sampler,
    num_steps: jax.Array,
) -> tuple[TrainState, Metrics]:
    def draw(index):
        return step_tasks(state.key, index, sampler, num_tasks)

    tasks_shape = jax.eval_shape(draw, state.step)
    ahead = _steps_ahead(tasks_shape, at_most)
    step, (_, metrics_shape) = trace_once(step, state, tasks_shape)
    nothing = jax.tree.map(
        lambda x: jnp.zeros((at_most, *x.shape), x.dtype), metrics_shape
    )

    def some_steps(i, carry):
        state, _ = carry
        first = state.step
        tasks = jax.vmap(draw)(first + jnp.arange(ahead))

        def one(j, carry):
            state, log = carry
            # By the step's number, so that one that failed meets its own tasks again.
            own = jax.tree.map(lambda x: x[state.step - first], tasks)
            state, metrics = step(state, own)
            return state, jax.tree.map(lambda x, new: x.at[j].set(new), log, metrics)

        done = i * ahead
        return jax.lax.fori_loop(done, jnp.minimum(done + ahead, num_steps), one, carry)

    # The number of steps is no constant, so that one program serves all: the compiler
    # has then nothing to choose by it, and each step comes out the same to the last bit.
    rounds = (num_steps + ahead - 1) // ahead
    return jax.lax.fori_loop(0, rounds, some_steps, (state, nothing))


def _steps_ahead(tasks: Task, at_most: int) -> int:
    """For how many steps tasks are drawn at once.

    To draw many small tasks takes little more time than to draw a few.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tasks))
    return max(min(at_most, _DRAWN_BYTES // max(size, 1)), 1)
