"""What inner and outer optimizers are given, and whether an inner one is smooth."""

from typing import NoReturn

import jax
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun
import jax.numpy as jnp
import numpy as np
import optax

from metajax.base import Params, PyTree


def takes_value(optimizer: optax.GradientTransformation, params: Params) -> bool:
    """Whether an update asks for the loss, as that of `optax.polyak_sgd` does."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return False
    try:
        jax.eval_shape(lambda p: update(optimizer, p, optimizer.init(p), p), params)
    except TypeError:
        return True
    return False


def update(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    state: optax.OptState,
    params: Params,
    value: jax.Array | None = None,
) -> tuple[PyTree, optax.OptState]:
    """One update of an optimizer.

    Args:
      optimizer: any optax transformation that needs no function to evaluate.
      grads: the gradient.
      state: of the optimizer.
      params: where the gradient was taken.
      value: the loss there, if the optimizer takes it; see `takes_value`.

    Returns:
      The updates and the next state.

    Raises:
      ValueError: if the optimizer evaluates a function.
    """
    more = {}
    if value is not None:
        more = {"value": value, "grad": grads, "value_fn": _refuse_to_evaluate}
    # Which optax needs: it raises floats to the power of counts.
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(grads, state, params, **more)


def _refuse_to_evaluate(params: Params) -> NoReturn:
    raise ValueError(
        "An optimizer that evaluates the loss along its way (value_fn), as optax.lbfgs and "
        "line searches do, cannot be used: take one of gradients and values alone, such as "
        "optax.lbfgs(rate, linesearch=None) or optax.polyak_sgd()."
    )


def check_derivative(
    optimizer: optax.GradientTransformation,
    params: Params,
    num_steps: int,
    exact_steps: int,
) -> None:
    """Refuses an optimizer whose updates cannot be differentiated at zero gradients.

    Such gradients are common (a dead unit is enough), and one NaN spoils the whole
    meta-gradient. As many updates are taken as in the inner loop, since some change with
    their number. Optimizers built from traced meta-parameters are not checked.

    Args:
      optimizer: the inner optimizer.
      params: arrays, or their shapes and dtypes.
      num_steps: inner steps.
      exact_steps: how many of the last are differentiated.

    Raises:
      ValueError: if a derivative is not finite.
    """
    value = jnp.float32(1) if takes_value(optimizer, params) else None

    def zeros(*axes: int) -> Params:
        return jax.tree.map(lambda x: np.zeros((*axes, *x.shape), x.dtype), params)

    def step(state: optax.OptState, grads: PyTree):
        updates, state = update(optimizer, grads, state, zeros(), value)
        return state, sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

    def total(grads: PyTree) -> jax.typing.ArrayLike:
        state = optimizer.init(zeros())
        if not jax.tree.leaves(state):  # Every update is as the first.
            return step(state, jax.tree.map(lambda x: x[0], grads))[1]
        if num_steps > exact_steps:
            state, _ = jax.lax.scan(step, state, zeros(num_steps - exact_steps))
        return jnp.sum(jax.lax.scan(step, state, grads)[1])

    def is_smooth(grads: PyTree) -> jax.Array:
        slopes = jax.tree.leaves(jax.grad(total)(grads))
        return jnp.all(jnp.stack([jnp.isfinite(slope).all() for slope in slopes]))

    # Traced before, since while compile-time evaluation is on, each operation on constants
    # is a program of its own, even within a jit.
    grads = zeros(exact_steps)
    traced = jax.make_jaxpr(jax.jit(is_smooth))(grads)
    if any(isinstance(value, Tracer) for value in traced.consts):
        return
    with jax.ensure_compile_time_eval():
        (smooth,) = jaxpr_as_fun(traced)(*jax.tree.leaves(grads))
        if smooth:
            return
    raise ValueError(
        "The inner optimizer's update has no finite derivative at a zero gradient, so "
        "the meta-gradient would become NaN. Give Adam or RMSProp eps_root > 0 (such as "
        "optax.adam(rate, eps_root=1e-8)), take Adam for RAdam, clip by value instead of "
        "by global norm, or use the first-order adjoint unroll(last=0)."
    )
