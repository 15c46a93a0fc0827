"""Learned update rules: what takes a gradient and moves the parameters is itself learned.

    params[t+1] = params[t] + update(meta, gradients up to t, params[t], t)

Each starts as an ordinary optimizer, or near one, so that meta-training has something to
improve on; `training` makes of a rule and a task the dynamics that estimators with a
memory train it by.
"""

from collections.abc import Callable
from functools import partial
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import files, rule_optimizers
from metajax.base import Key, MetaParams, Params, PyTree, Rule
from metajax.models.recurrent import gru
from metajax.rule_optimizers import DECAYS, FEATURES, LAYER_FEATURES, TIMES
from metajax.unrolls import Dynamics


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
    scalars = len(TIMES) + LAYER_FEATURES * sees_layer

    def init(key: Key) -> MetaParams:
        first, second, third, last = jax.random.split(key, 4)
        normal = jax.random.normal
        return {
            "log_rate": jnp.log(jnp.float32(rate)),
            "linear": jnp.zeros(FEATURES).at[1 + DECAYS.index(0.9)].set(1.0),
            "features": normal(first, (FEATURES, hidden)) / FEATURES**0.5,
            "scalars": normal(second, (scalars, hidden)) / scalars**0.5,
            "hidden": normal(third, (hidden, hidden)) / hidden**0.5,
            "bias": jnp.zeros(hidden),
            "outputs": 1e-3 * normal(last, (hidden, 2)),
        }

    return Rule(init, partial(rule_optimizers.per_parameter, sees_layer=sees_layer))


def recurrent(width: int = 20, *, scale: float = 0.1) -> Rule:
    """A recurrent network that every parameter is moved by, from its gradients alone.

        memory' = gru(memory, [log|g| / 10, sign g])
        update = scale * weights . memory'

    where a gradient smaller than exp(-10) comes as `[-1, exp(10) g]`. Each number of the
    parameters has a memory of its own, all the same network, `models.gru(width)`.

    Args:
      width: of the memory.
      scale: of updates; the weights start near zero.

    Returns:
      A rule.

    Raises:
      ValueError: if a size is not positive.

    Source:
      Andrychowicz et al. 2016 (arXiv 1606.04474), section 2.1 and appendix A.

    Note:
      They have two layers of LSTM of width 20.
    """
    if width < 1 or not scale > 0:
        raise ValueError(
            f"recurrent: width and scale must be positive: got {width} and {scale}."
        )

    def init(key: Key) -> MetaParams:
        gru_key, key = jax.random.split(key)
        weights = 0.01 * jax.random.normal(key, (width,))
        return {"gru": gru(width).init(gru_key, jnp.zeros(2)), "weights": weights}

    return Rule(init, partial(rule_optimizers.recurrent, scale=scale))


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

    return Rule(init, partial(rule_optimizers.scheduled_adam, num_steps=num_steps))


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


def export(rule: Rule, meta: MetaParams, path: str | Path) -> None:
    """Writes a rule with its numbers as one Python file, which needs optax and NumPy alone.

    Its `optimizer()` is `rule.optimizer(meta)`, for any optax program.

    Args:
      rule: one that this module makes.
      meta: its meta-parameters, of which there is float32.
      path: the file to write.

    Raises:
      ValueError: if the rule is another's, or the meta-parameters are not the rule's.
      OSError: if the file cannot be written.

    Example:
      >>> export(per_parameter(), best, "learned.py")  # doctest: +SKIP
      >>> from learned import optimizer  # doctest: +SKIP
      >>> trained_by = optax.chain(optimizer(), optax.scale(0.5))  # doctest: +SKIP
    """
    made = rule.optimizer
    if (
        not isinstance(made, partial)
        or made.func.__module__ != rule_optimizers.__name__
    ):
        raise ValueError(
            "rules.export writes the rules of metajax.rules: save the meta-parameters of "
            "your own with trees.save."
        )
    expected = jax.eval_shape(rule.init, jax.random.key(0))
    if jax.tree.map(jnp.shape, meta) != jax.tree.map(jnp.shape, expected):
        raise ValueError(
            f"rules.export: the rule's meta-parameters are {_shapes(expected)}, but these "
            f"are {_shapes(meta)}: give those of this rule."
        )
    code = inspect.getsource(rule_optimizers).partition('"""\n\n')[2]
    settings = "".join(f", {k}={v!r}" for k, v in made.keywords.items())
    text = f'''"""A learned optimizer: `optimizer()` is an optax transformation.

Its updates depend on the params: optimizer().update(grads, state, params).
"""

import numpy as np
{code}

_META = {_literal(jax.device_get(meta))}


def optimizer() -> optax.GradientTransformation:
    """The optimizer that was learned."""
    return {made.func.__name__}(_META{settings})
'''
    with files.whole(path) as file:
        file.write(text.encode())


def _shapes(tree: PyTree) -> str:
    return str(jax.tree.map(lambda leaf: [*jnp.shape(leaf)], tree))


def _literal(tree: PyTree, indent: str = "") -> str:
    """Arrays in dictionaries as Python writes them, which reads back to the same bits."""
    if not isinstance(tree, dict):
        numbers = np.asarray(tree, np.float32)
        text = np.array2string(
            numbers,
            separator=", ",
            threshold=numbers.size + 1,
            max_line_width=80,
            floatmode="unique",
        )
        return f"np.float32({text})"
    inner = indent + "    "
    lines = [
        f"{inner}{key!r}: {_literal(value, inner)},\n" for key, value in tree.items()
    ]
    return "{\n" + "".join(lines) + indent + "}"
