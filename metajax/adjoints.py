"""The inner loop, and the ways to differentiate it.

An adjoint takes an inner loss, an optax transformation and a number of steps, and
returns `solve(params, args)`: the params after that many steps. The value is the same
whatever the adjoint; its derivative with respect to `params` and `args` is not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metajax.base import Adjoint, Args, InnerLoss, Params


def unroll(last: int | None = None, *, remat: bool = False) -> Adjoint:
    """Differentiates through the steps of the inner loop, or through the last of them.

    Step `t` of the inner loop is

        params[t+1] = params[t] + update(grad loss(params[t], args))

    and earlier steps than the last `last` take the inner gradient for a constant: they
    contribute no second derivative, and their cost in memory does not grow with the
    number of steps. `last=None` is the exact derivative, `last=0` the first-order one.

    Args:
      last: how many of the last steps are differentiated in full; None for all.
      remat: whether to recompute a step in the backward pass rather than to keep what
        it computed, for less memory and more time.

    Returns:
      An adjoint.

    Raises:
      ValueError: if `last` is negative; by the adjoint, if `last` exceeds the number of
        steps, or if the optimizer's derivative is not finite at a zero gradient.

    Source:
      Finn et al. 2017 (arXiv 1703.03400), section 5.2, for first order; Shaban et al.
      2019 (arXiv 1810.10667) for truncation.

    Note:
      A stop_gradient on the early iterates would cut `params` off and leave an
      initialisation without a gradient; here it is on the early gradients only, so
      that `last=0` keeps the identity path from `params` to the result, and with it
      first-order gradients to rates that the optimizer was built from.
    """
    if last is not None and last < 0:
        raise ValueError(f"unroll: last must be at least 0 or None: got {last}.")

    def adjoint(
        loss: InnerLoss, optimizer: optax.GradientTransformation, num_steps: int
    ) -> Callable[[Params, Args], Params]:
        exact_steps = num_steps if last is None else last
        if num_steps < 0 or exact_steps > num_steps:
            raise ValueError(
                f"unroll: last={last} must be at most the number of inner steps, which "
                f"must be at least 0: got {num_steps}."
            )

        def solve(params: Params, args: Args) -> Params:
            if exact_steps:
                _check_derivative(optimizer, params)

            def step(carry, exact):
                params, state = carry
                grads = jax.grad(loss)(params, args)
                if not exact:
                    grads = jax.lax.stop_gradient(grads)
                updates, state = optimizer.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            carry = params, optimizer.init(params)
            carry = _repeat(step, carry, False, num_steps - exact_steps, remat)
            carry = _repeat(step, carry, True, exact_steps, remat)
            return carry[0]

        return solve

    return adjoint


def _repeat(step, carry, exact: bool, num_steps: int, remat: bool):
    """Applies `step` to `carry` a number of times, as one compiled loop."""
    if not num_steps:
        return carry

    def body(carry, _):
        return step(carry, exact), None

    body = jax.checkpoint(body, prevent_cse=False) if remat else body
    return jax.lax.scan(body, carry, length=num_steps)[0]


def _check_derivative(optimizer: optax.GradientTransformation, params: Params) -> None:
    """Refuses an optimizer whose update cannot be differentiated at a zero gradient.

    Such a gradient is common (a dead unit is enough), and one NaN spoils the whole
    meta-gradient. Optimizers built from traced meta-parameters are not checked.
    """
    with jax.ensure_compile_time_eval():
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)

        def total_update(grads):
            updates, _ = optimizer.update(grads, optimizer.init(zeros), zeros)
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

        slopes = jax.tree.leaves(jax.grad(total_update)(zeros))
        if any(isinstance(slope, jax.core.Tracer) for slope in slopes):
            return
        if all(jnp.isfinite(slope).all() for slope in slopes):
            return
    raise ValueError(
        "The inner optimizer's update has no finite derivative at a zero gradient, so "
        "the meta-gradient would become NaN. Give Adam or RMSProp eps_root > 0 (such as "
        "optax.adam(rate, eps_root=1e-8)), clip by value instead of by global norm, or "
        "use the first-order adjoint unroll(last=0)."
    )
