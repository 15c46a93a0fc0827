"""Long trainings seen through windows: estimators that remember where each task stands.

A training of thousands of steps is too long to differentiate, and too long for one outer
step. These estimators take a window of it at a time, go on from where they left off, and
begin a new task where one has come to its end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from metajax import sharing, trees
from metajax.base import Carrying, Key, MetaParams, Metrics, Objective, PyTree

State = PyTree  # Where the training of one task stands.


class Dynamics(NamedTuple):
    """The training of one task, step by step.

    Attributes:
      init: `(key, meta, task) -> state`, before the first step.
      step: `(key, meta, task, state, age) -> (state, (loss, metrics))`, one step; `age`
        is how many there were before it, and the loss what the step costs.
    """

    init: Callable[[Key, MetaParams, PyTree], State]
    step: Callable[
        [Key, MetaParams, PyTree, State, jax.Array],
        tuple[State, tuple[jax.Array, Metrics]],
    ]


class Slot(NamedTuple):
    """The place of one task among those that are carried."""

    task: PyTree
    key: Key  # Of its whole life.
    state: State  # Of each of a pair, leaves [2, ...], under `persistent`.
    age: jax.Array  # Steps that it has taken, int32.
    end: jax.Array  # The age at which another takes its place.
    noise: PyTree  # What disturbs its meta-parameters on; () where nothing does.


def whole(dynamics: Dynamics, horizon: int) -> Objective:
    """What the whole training of a task costs: the mean over its steps.

        1 / horizon  sum over t < horizon of loss[t]

    Args:
      dynamics: the training.
      horizon: its steps.

    Returns:
      An objective, to evaluate by, or to differentiate where memory allows; its metrics
      are those of the steps and their `loss`, means over steps, and `last_loss`.

    Raises:
      ValueError: if the horizon is not positive.
    """
    _check(horizon, horizon)

    def objective(key: Key, meta: MetaParams, task: PyTree):
        init_key, key = jax.random.split(key)
        state = dynamics.init(init_key, meta, task)
        _, each = _window(dynamics, key, meta, task, state, jnp.int32(0), horizon)
        means = jax.tree.map(partial(jnp.mean, axis=0), each)
        return means[0], {"loss": means[0], **means[1], "last_loss": each[0][-1]}

    return objective


def truncated(
    dynamics: Dynamics,
    *,
    window: int,
    horizon: int,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Carrying:
    """The gradient of the mean loss in a window, by reverse mode through it alone.

        d/d meta  mean_i  1 / window  sum over the window of loss[t]

    where the state at the start of a window is taken for a constant: what it owes to the
    meta-parameters is lost, by which the gradient is biased (Wu et al. 2018).

    Args:
      dynamics: the training of one task.
      window: inner steps an outer step.
      horizon: inner steps of a task, a multiple of `window`. With one window a task it is
        `backprop(whole(dynamics, horizon))`.
      tasks_per_chunk: as in `estimators.backprop`.
      mesh: as in `estimators.backprop`.

    Returns:
      An estimator with a memory. Tasks are at staggered ages from the first step on: some
      come to an early end once. One whose state or loss is not finite has no part in the
      gradient and begins anew; the metric `begun_anew` is their share. If all are, loss
      and gradient are NaN.

    Raises:
      ValueError: if the window is not positive or does not divide the horizon.

    Source:
      Williams and Peng 1990.
    """
    _check(window, horizon)

    def init(key: Key, meta: MetaParams, task: PyTree):
        return dynamics.init(key, meta, task), ()

    def advance(key: Key, meta: MetaParams, slot: Slot):
        del key

        def loss_of(meta):
            state, each = _window(
                dynamics, slot.key, meta, slot.task, slot.state, slot.age, window
            )
            loss, metrics = jax.tree.map(partial(jnp.mean, axis=0), each)
            return loss, (state, metrics)

        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (state, metrics)), gradient = value_and_grad(meta)
        return slot._replace(state=state), loss, metrics, gradient

    return _carrying(init, advance, window, horizon, tasks_per_chunk, mesh)


def persistent(
    dynamics: Dynamics,
    *,
    window: int,
    horizon: int,
    std: float,
    noise: Literal["fresh_summed", "reused", "fresh"] = "fresh_summed",
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Carrying:
    """The gradient of the smoothed mean loss, by evaluations alone, windows not biasing it.

        mean_i  sum_i * (loss(meta + noise_i) - loss(meta - noise_i)) / (2 std^2)

    Each task is trained as a pair, under opposite noise of standard deviation `std`. Under
    "fresh_summed" (PES) the noise of each window is new, and `sum_i` adds up that of all
    windows of a task so far; under "reused" (NRES) a task keeps its noise for life, which
    is `sum_i` and gives less variance where its windows are alike; under "fresh" (ES of
    truncated windows) noise is new and `sum_i` is that of the window alone, by which the
    gradient is biased as that of `truncated` is. Nothing is differentiated.

    Args:
      dynamics: the training of one task.
      window: inner steps an outer step.
      horizon: inner steps of a task, a multiple of `window`.
      std: standard deviation of the noise.
      noise: see above.
      tasks_per_chunk: as in `estimators.backprop`.
      mesh: as in `estimators.backprop`.

    Returns:
      An estimator with a memory, as `truncated`; loss and metrics are means over pairs.

    Raises:
      ValueError: as `truncated`, and if `std` is not positive or there is no such noise.

    Source:
      Vicol, Metz, Sohl-Dickstein 2021 (PES, arXiv 2112.13835), algorithm 2; Li et al. 2023
      (NRES, arXiv 2304.12180), section 4.
    """
    _check(window, horizon)
    kinds = ("fresh_summed", "reused", "fresh")
    if not std > 0 or noise not in kinds:
        raise ValueError(
            f"persistent: std must be positive and noise one of {', '.join(kinds)}: got "
            f"{std} and {noise!r}."
        )

    def draw(key: Key, meta: MetaParams) -> PyTree:
        normal = optax.tree.random_like(key, meta, jax.random.normal)
        return optax.tree.scale(std, normal)

    def init(key: Key, meta: MetaParams, task: PyTree):
        state_key, noise_key = jax.random.split(key)
        own = optax.tree.zeros_like(meta)
        if noise == "reused":
            own = draw(noise_key, meta)
        pair = _pair(optax.tree.add(meta, own), optax.tree.sub(meta, own))
        states = jax.vmap(dynamics.init, (None, 0, None))(state_key, pair, task)
        return states, kept(own)

    def kept(summed: PyTree) -> PyTree:
        return () if noise == "fresh" else summed

    def advance(key: Key, meta: MetaParams, slot: Slot):
        now = slot.noise if noise == "reused" else draw(key, meta)
        summed = optax.tree.add(slot.noise, now) if noise == "fresh_summed" else now
        pair = _pair(optax.tree.add(meta, now), optax.tree.sub(meta, now))

        def run(meta, state):
            return _window(dynamics, slot.key, meta, slot.task, state, slot.age, window)

        states, each = jax.vmap(run)(pair, slot.state)
        losses, metrics = jax.tree.map(partial(jnp.mean, axis=1), each)  # [2, ...]
        slope = (losses[0] - losses[1]) / (2 * std**2)
        loss, metrics = jax.tree.map(partial(jnp.mean, axis=0), (losses, metrics))
        after = slot._replace(state=states, noise=kept(summed))
        return after, loss, metrics, optax.tree.scale(slope, summed)

    return _carrying(init, advance, window, horizon, tasks_per_chunk, mesh)


def _check(window: int, horizon: int) -> None:
    if window < 1 or horizon < window or horizon % window:
        raise ValueError(
            f"The window must divide the horizon, both in inner steps: got {window} and "
            f"{horizon}."
        )


def _pair(above: PyTree, below: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), above, below)


def _window(
    dynamics: Dynamics,
    key: Key,
    meta: MetaParams,
    task: PyTree,
    state: State,
    age: jax.Array,
    steps: int,
) -> tuple[State, tuple[jax.Array, Metrics]]:
    """Some steps from an age on; the loss and metrics of each, leaves `[steps, ...]`."""

    def one(state: State, age: jax.Array):
        step_key = jax.random.fold_in(key, age)
        return dynamics.step(step_key, meta, task, state, age)

    return jax.lax.scan(one, state, age + jnp.arange(steps))


# (key, meta, slot) to the slot after a window, loss, metrics, and gradient.
Advance = Callable[[Key, MetaParams, Slot], tuple[Slot, jax.Array, Metrics, Any]]


def _carrying(
    init: Callable[[Key, MetaParams, PyTree], tuple[State, PyTree]],
    advance: Advance,
    window: int,
    horizon: int,
    tasks_per_chunk: int | None,
    mesh: Mesh | None,
) -> Carrying:
    """An estimator with a memory, from the start of a task and its way through a window."""

    def born(key: Key, meta: MetaParams, task: PyTree, end: jax.Array) -> Slot:
        init_key, key = jax.random.split(key)
        state, noise = init(init_key, meta, task)
        return Slot(task, key, state, jnp.int32(0), end, noise)

    def begin(key: Key, meta: MetaParams, tasks: PyTree) -> Slot:
        number = len(jax.tree.leaves(tasks)[0])
        windows = horizon // window
        # The ends of as many tasks as there are fall evenly on the windows.
        ends = window * (1 + jnp.arange(number, dtype=jnp.int32) % windows)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number))
        return jax.vmap(born, (0, None, 0, 0))(keys, meta, tasks, ends)

    def one(key: Key, meta: MetaParams, task: PyTree, slot: Slot):
        born_key, key = jax.random.split(key)
        anew = born(born_key, meta, task, jnp.int32(horizon))
        slot = trees.select(slot.age >= slot.end, anew, slot)
        slot, loss, metrics, gradient = advance(key, meta, slot)
        finite = jnp.isfinite(loss) & trees.all_finite((slot.state, gradient))
        age = jnp.where(finite, slot.age + window, slot.end)
        return slot._replace(age=age), finite, (loss, metrics), gradient

    def total(key: Key, meta: MetaParams, weights, keys: Key, each):
        del key
        slots, finite, values, gradients = jax.vmap(one, (0, None, 0, 0))(
            keys, meta, *each
        )
        counted = (values, gradients)
        counted = jax.vmap(trees.select, (0, 0, 0))(
            finite, counted, optax.tree.zeros_like(counted)
        )
        shares = jnp.sum(weights * finite), jnp.sum(weights * ~finite)
        return (shares, sharing.weighted_sum(weights, counted)), slots

    shared = sharing.sum_and_each(total, tasks_per_chunk, mesh)

    def estimate(key: Key, meta: MetaParams, tasks: PyTree, carried: Slot):
        ((share, anew), sums), slots = shared(key, meta, (tasks, carried))
        # Of the tasks that count; of none it is 0 / 0.
        (loss, metrics), gradient = jax.tree.map(lambda x: x / share, sums)
        metrics = {"loss": loss, **metrics, "begun_anew": anew}
        return ((loss, metrics), gradient), slots

    return Carrying(begin, estimate)
