"""Learned update rules: what takes a gradient and moves the parameters is itself learned.

    params[t+1] = params[t] + update(meta, gradients up to t, params[t], t)

Each starts as an ordinary optimizer, or near one, so that meta-training has something to
improve on; `training` makes of a rule and a task the dynamics that estimators with a
memory train it by.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import Key, MetaParams, Params, PyTree, Recurrent, Rule
from metajax.unrolls import Dynamics

_DECAYS = (0.5, 0.9, 0.99)  # Of the momenta that a rule sees; of 0.9 and
_SQUARES, _EPSILON = 0.999, 1e-8  # of this mean square Adam is made.
_TIMES = (10.0, 100.0, 1000.0, 10000.0)  # Steps by which time is told.
_FEATURES = 3 + len(_DECAYS)
_LAYER_FEATURES = 4


class Averages(NamedTuple):
    """What a rule remembers of the gradients."""

    steps: jax.Array
    momenta: tuple[PyTree, ...]  # One for each decay.
    squares: PyTree


def per_parameter(
    hidden: int = 16, *, rate: float = 1e-3, sees_layer: bool = False
) -> Rule:
    """A small network that every parameter is moved by, from what it has seen.

        features = [g, momenta] / sqrt(mean square), g and params over their rms
        direction, magnitude = network(features, time[, layer])
        update = -exp(log_rate + magnitude) * (linear . features + direction)

    It starts next to Adam: the linear part picks the momentum of decay 0.9, and the network
    adds hardly anything; without its `outputs` it is Adam. With 16 hidden units it has
    about 500 numbers.

    Args:
      hidden: units of each of its two hidden layers.
      rate: that of Adam, from which it starts.
      sees_layer: whether it also sees of the array that a parameter belongs to how large
        it is, and the sizes of its gradient, its parameters and the ratio of both.

    Returns:
      A rule.

    Raises:
      ValueError: if a size or the rate is not positive.

    Source:
      After Metz et al. 2020 (arXiv 2009.11243) and 2022 (arXiv 2203.11860), whose rules
      have further statistics and no start from Adam.
    """
    if hidden < 1 or not rate > 0:
        raise ValueError(
            f"per_parameter: hidden and rate must be positive: got {hidden} and {rate}."
        )
    scalars = len(_TIMES) + _LAYER_FEATURES * sees_layer

    def init(key: Key) -> MetaParams:
        first, second, third, last = jax.random.split(key, 4)
        normal = jax.random.normal
        adam = jnp.zeros(_FEATURES).at[1 + _DECAYS.index(0.9)].set(1.0)
        return {
            "log_rate": jnp.log(jnp.float32(rate)),
            "linear": adam,
            "features": normal(first, (_FEATURES, hidden)) / _FEATURES**0.5,
            "scalars": normal(second, (scalars, hidden)) / scalars**0.5,
            "hidden": normal(third, (hidden, hidden)) / hidden**0.5,
            "bias": jnp.zeros(hidden),
            "outputs": 1e-3 * normal(last, (hidden, 2)),
        }

    def optimizer(meta: MetaParams) -> optax.GradientTransformation:
        def start(params: Params) -> Averages:
            zeros = optax.tree.zeros_like(params)
            return Averages(jnp.int32(0), (zeros,) * len(_DECAYS), zeros)

        def update(updates: Params, state: Any, params: Params | None = None):
            _check_params("per_parameter", params)
            state = _averaged(state, updates, _DECAYS, _SQUARES)
            one = partial(_moved, meta, state.steps, sees_layer)
            moves = jax.tree.map(one, params, updates, state.squares, *state.momenta)
            return moves, state

        return optax.GradientTransformation(start, update)

    return Rule(init, optimizer)


def _averaged(state: Averages, grads: Params, decays, squares_decay) -> Averages:
    """The averages after one more gradient, momenta of these decays."""

    def mean(decay, before: PyTree, now: PyTree) -> PyTree:
        return jax.tree.map(lambda b, n: decay * b + (1 - decay) * n, before, now)

    momenta = tuple(
        mean(d, m, grads) for d, m in zip(decays, state.momenta, strict=True)
    )
    squares = mean(squares_decay, state.squares, jax.tree.map(jnp.square, grads))
    return Averages(state.steps + 1, momenta, squares)


def _root(square: jax.Array, decay, steps: jax.Array) -> jax.Array:
    """Of a mean square that has seen so many steps.

    It is of a sum, or its derivative at zero gradients would be infinite.
    """
    return jnp.sqrt(square / (1 - decay**steps) + _EPSILON**2) + _EPSILON


def _moved(meta, count, sees_layer: bool, param, grad, square, *momenta) -> jax.Array:
    """The update of one array, each of its numbers by itself."""
    steps = count.astype(param.dtype)
    size = _root(square, _SQUARES, steps)
    means = [m / (1 - d**steps) for d, m in zip(_DECAYS, momenta, strict=True)]
    each = [x / size for x in (grad, *means)] + [grad / _rms(grad), param / _rms(param)]
    features = jnp.stack(each, axis=-1)
    scalars = [jnp.tanh(steps / time - 1) for time in _TIMES]
    if sees_layer:
        sizes = _rms(grad), _rms(param), _rms(grad) / _rms(param), param.size
        scalars += [0.1 * jnp.log(jnp.asarray(x, param.dtype)) for x in sizes]
    context = jnp.stack(scalars) @ meta["scalars"] + meta["bias"]
    rank = [1] * param.ndim
    hidden = jnp.tanh(features @ meta["features"] + context.reshape(*rank, -1))
    hidden = jnp.tanh(hidden @ meta["hidden"])
    direction, magnitude = jnp.moveaxis(hidden @ meta["outputs"], -1, 0)
    direction += features @ meta["linear"]
    return (-jnp.exp(meta["log_rate"] + magnitude) * direction).astype(param.dtype)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)) + _EPSILON**2)


def recurrent(model: Recurrent, width: int, *, scale: float = 0.1) -> Rule:
    """A recurrent network that every parameter is moved by, from its gradients alone.

        memory', output = model(memory, [log|g| / 10, sign g])
        update = scale * weights . output

    where a gradient smaller than exp(-10) comes as `[-1, exp(10) g]`. Each number of the
    parameters has a memory of its own, all the same network.

    Args:
      model: the network, such as `models.gru(20)`, of inputs `[2]`.
      width: of its output.
      scale: of updates; the weights start near zero.

    Returns:
      A rule.

    Raises:
      ValueError: if a size is not positive.

    Source:
      Andrychowicz et al. 2016 (arXiv 1606.04474), sections 2.1 and appendix A; they have
      two layers of LSTM of width 20.
    """
    if width < 1 or not scale > 0:
        raise ValueError(
            f"recurrent: width and scale must be positive: got {width} and {scale}."
        )

    def init(key: Key) -> MetaParams:
        model_key, key = jax.random.split(key)
        weights = 0.01 * jax.random.normal(key, (width,))
        return {"model": model.init(model_key, jnp.zeros(2)), "weights": weights}

    def optimizer(meta: MetaParams) -> optax.GradientTransformation:
        def start(params: Params) -> PyTree:
            begun = model.start(meta["model"])

            def each(param):
                return jax.tree.map(lambda x: jnp.tile(x, (param.size, 1)), begun)

            return jax.tree.map(each, params)

        def one(memory: PyTree, grad: jax.Array):
            step = jax.vmap(model.step, (None, 0, 0))
            memory, outputs = step(meta["model"], memory, _seen(grad.reshape(-1)))
            moves = scale * outputs @ meta["weights"]
            return memory, moves.reshape(grad.shape).astype(grad.dtype)

        def update(updates: Params, state: PyTree, params: Params | None = None):
            del params
            leaves, structure = jax.tree.flatten(updates)
            memories = structure.flatten_up_to(state)
            each = [one(m, g) for m, g in zip(memories, leaves, strict=True)]
            memories, moves = zip(*each, strict=True)
            return structure.unflatten(moves), structure.unflatten(memories)

        return optax.GradientTransformation(start, update)

    return Rule(init, optimizer)


def _seen(grads: jax.Array) -> jax.Array:
    """Gradients of all sizes as two numbers of about one, `[numbers, 2]`."""
    least = jnp.exp(-10.0)
    large = jnp.abs(grads) >= least
    logarithm = jnp.log(jnp.where(large, jnp.abs(grads), 1.0)) / 10
    seen = (
        jnp.where(large, logarithm, -1),
        jnp.where(large, jnp.sign(grads), grads / least),
    )
    return jnp.stack(seen, axis=-1)


def scheduled_adam(num_steps: int, *, rate: float = 1e-3, knots: int = 12) -> Rule:
    """Adam with a learned schedule of its rate, and learned decays: 14 numbers.

        rate[t] = exp(interpolation of log_rates at t / num_steps)

    The honest baseline: what a rule gains beyond it is more than a better schedule.

    Args:
      num_steps: over which the knots are spread; after them the last rate stays.
      rate: the constant rate from which it starts, with decays 0.9 and 0.999.
      knots: of the schedule.

    Returns:
      A rule.

    Raises:
      ValueError: if a size or the rate is not positive, or there are less than two knots.
    """
    if num_steps < 1 or knots < 2 or not rate > 0:
        raise ValueError(
            "scheduled_adam: num_steps and rate must be positive, and knots two at least: "
            f"got {num_steps}, {rate} and {knots}."
        )

    def init(key: Key) -> MetaParams:
        del key
        logits = [jnp.log(jnp.float32(decay / (1 - decay))) for decay in (0.9, 0.999)]
        log_rate = jnp.log(jnp.float32(rate))
        return {"log_rates": jnp.full(knots, log_rate), "decays": jnp.stack(logits)}

    def optimizer(meta: MetaParams) -> optax.GradientTransformation:
        first, second = jax.nn.sigmoid(meta["decays"])
        # Of floats with fewer bits there is no interpolation.
        log_rates = meta["log_rates"]
        log_rates = log_rates.astype(jnp.promote_types(log_rates.dtype, jnp.float32))
        places = jnp.linspace(0, num_steps, knots, dtype=log_rates.dtype)

        def start(params: Params) -> Averages:
            zeros = optax.tree.zeros_like(params)
            return Averages(jnp.int32(0), (zeros,), zeros)

        def update(updates: Params, state: Any, params: Params | None = None):
            del params
            before = state.steps.astype(places.dtype)
            rate = jnp.exp(jnp.interp(before, places, log_rates)).astype(first.dtype)
            steps = (before + 1).astype(first.dtype)
            state = _averaged(state, updates, (first,), second)

            def one(momentum, square):
                mean = momentum / (1 - first**steps)
                return -rate * mean / _root(square, second, steps)

            return jax.tree.map(one, state.momenta[0], state.squares), state

        return optax.GradientTransformation(start, update)

    return Rule(init, optimizer)


def _check_params(name: str, params: Any) -> None:
    if params is None:
        raise ValueError(
            f"{name}: its updates depend on the params: give them to "
            "optimizer.update(grads, state, params)."
        )


def training(
    rule: Rule,
    init: Callable[[Key, PyTree], Params],
    loss: Callable[[Key, Params, PyTree], jax.Array],
    *,
    judged: Callable[[Key, Params, PyTree], jax.Array] | None = None,
) -> Dynamics:
    """The training of one task by a rule, to meta-train the rule by.

    Args:
      rule: the rule.
      init: `(key, task) -> params`, before the first step.
      loss: `(key, params, task) -> loss`, what the rule descends: of a minibatch that the
        key draws, say.
      judged: likewise, what a step costs; that of the loss before it if None. A loss on
        other examples teaches rules that generalise.

    Returns:
      Its dynamics, for `estimators.persistent`, `estimators.truncated` and
      `unrolls.whole`; with `judged` the metric `train_loss` is that of the loss.

    Example:
      >>> dynamics = training(per_parameter(), init, loss)  # doctest: +SKIP
      >>> meta_grad = persistent(  # doctest: +SKIP
      ...     dynamics, window=20, horizon=200, std=0.01
      ... )
    """

    def begin(key: Key, meta: MetaParams, task: PyTree):
        params = init(key, task)
        return params, rule.optimizer(meta).init(params)

    def step(key: Key, meta: MetaParams, task: PyTree, state, age: jax.Array):
        del age  # Rules count for themselves.
        params, opt_state = state
        loss_key, judge_key = jax.random.split(key)
        value, grads = jax.value_and_grad(loss, argnums=1)(loss_key, params, task)
        moves, opt_state = rule.optimizer(meta).update(grads, opt_state, params)
        params = optax.apply_updates(params, moves)
        cost, metrics = value, {}
        if judged is not None:
            cost, metrics = judged(judge_key, params, task), {"train_loss": value}
        return (params, opt_state), (cost, metrics)

    return Dynamics(begin, step)
