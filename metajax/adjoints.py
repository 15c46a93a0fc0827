"""The inner loop, and the ways to differentiate it.

An adjoint takes an inner loss, an optax transformation and a number of steps, and
returns `solve(params, args)`: the params after that many steps. The value is the same
whatever the adjoint; its derivative with respect to `params` and `args` is not, or not
at the same price.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
import jax.numpy as jnp
import optax

from metajax import trees
from metajax.base import Adjoint, Args, InnerLoss, Params
from metajax.trees import Paths

Remat = Literal["none", "step", "nested"]


def unroll(last: int | None = None, *, remat: Remat = "none") -> Adjoint:
    """Differentiates through the steps of the inner loop, or through the last of them.

    Step `t` of the inner loop is

        params[t+1] = params[t] + update(grad loss(params[t], args))

    and earlier steps than the last `last` take the inner gradient for a constant: they
    contribute no second derivative, and their cost in memory does not grow with the
    number of steps. `last=None` is the exact derivative, `last=0` the first-order one.

    Args:
      last: how many of the last steps are differentiated in full; None for all.
      remat: what the backward pass recomputes rather than finds in memory. "none":
        nothing. "step": each step from the params it started at, so that memory holds
        one step's activations and the params and optimizer state of all. "nested":
        segments of about sqrt(steps), and in them each step, so that memory holds the
        params of about 2 sqrt(steps) steps, for one more evaluation of each.

    Returns:
      An adjoint.

    Raises:
      ValueError: if `last` is negative or `remat` is none of those; by the adjoint, if
        `last` exceeds the number of steps, or if the optimizer's derivative is not
        finite at a zero gradient.

    Source:
      Finn et al. 2017 (arXiv 1703.03400), section 5.2, for first order; Shaban et al.
      2019 (arXiv 1810.10667) for truncation; Chen et al. 2016 (arXiv 1604.06174) for
      segments.

    Note:
      A stop_gradient on the early iterates would cut `params` off and leave an
      initialisation without a gradient; here it is on the early gradients only, so
      that `last=0` keeps the identity path from `params` to the result, and with it
      first-order gradients to rates that the optimizer was built from.
    """
    return _adjoint("unroll", jax.grad, last, remat, most_unrolled=8)


def mixed_mode(last: int | None = None, *, remat: Remat = "step") -> Adjoint:
    """Differentiates as `unroll`, but each inner gradient by one forward-over-reverse.

    Reverse mode needs v'H and v'M, where H and M are the derivatives of the inner
    gradient g with respect to `params` and `args`. H is symmetric and M is the
    transpose of d/dparams (d loss/d args), so that both come from one forward product:

        (H v, M' v) = jvp(grad(loss, (params, args)), params, v)

    Only `params` and `args` are kept for it, none of the activations of the inner
    backward pass. The derivative is that of `unroll` to rounding. It pays where
    activations outweigh params, and most with rematerialised blocks in the model.

    Args:
      last: how many of the last steps are differentiated in full; None for all.
      remat: as in `unroll`. "none" keeps what the optimizer computed at each step.

    Returns:
      An adjoint. Gradients flow to `params`, to `args`, to what the optimizer was built
      from and to what the loss closes over, in reverse mode alone. It takes the inner
      gradient for the true one: where a `custom_vjp` of the loss makes it another
      (straight-through rounding, gradient clipping), `unroll` and this differ.

    Raises:
      ValueError: as `unroll`.

    Source:
      Kemaev et al. 2025 (MixFlow-MG, arXiv 2505.00793).

    Note:
      A recomputed step finds its inner gradient in memory where the derivative of the
      optimizer's update needs it (Adam, learned rates), as the paper advises.
    """
    # Without a loop XLA would keep the activations, as the same as those of the product.
    return _adjoint("mixed_mode", _mixed_grad, last, remat, most_unrolled=1)


def only(paths: Paths, adjoint: Adjoint) -> Adjoint:
    """Lets an inner loop change some of the params, and leaves the others alone.

    The others reach the inner loss as they are: they have a meta-gradient all the same.

    Args:
      paths: which params: a shell pattern of their paths such as "head/*", several
        patterns, or a predicate on a path; see `trees.split`.
      adjoint: how the inner loop is differentiated.

    Returns:
      An adjoint, whose optimizer sees the chosen params alone.

    Raises:
      ValueError: when traced, if no param matches; the message lists those there are.

    Example:
      MAML that adapts the convolutions and nothing else:

      >>> adjoint = only("Conv_*/kernel", unroll())
      >>> learner = maml(model, loss, optimizer, 1, adjoint=adjoint)  # doctest: +SKIP
    """

    def adjoint_of_some(
        loss: InnerLoss, optimizer: optax.GradientTransformation, num_steps: int
    ) -> Callable[[Params, Args], Params]:
        def loss_of_some(some: Params, others_and_args: tuple[Params, Args]):
            others, args = others_and_args
            return loss(trees.merge(some, others), args)

        solve_some = adjoint(loss_of_some, optimizer, num_steps)

        def solve(params: Params, args: Args) -> Params:
            some, others = trees.split(params, paths)
            return trees.merge(solve_some(some, (others, args)), others)

        return solve

    return adjoint_of_some


def _adjoint(
    name: str, grad, last: int | None, remat: Remat, most_unrolled: int
) -> Adjoint:
    """An adjoint by its inner gradient.

    Without rematerialisation, up to `most_unrolled` inner steps are compiled one after
    another: what a loop would stack for the backward pass stays where it is, but each
    step takes its time to compile.
    """
    if last is not None and last < 0:
        raise ValueError(f"{name}: last must be at least 0 or None: got {last}.")
    if remat not in get_args(Remat):
        raise ValueError(
            f"{name}: unknown remat {remat!r}: choose one of {', '.join(get_args(Remat))}."
        )

    def adjoint(
        loss: InnerLoss, optimizer: optax.GradientTransformation, num_steps: int
    ) -> Callable[[Params, Args], Params]:
        exact_steps = num_steps if last is None else last
        if num_steps < 0 or exact_steps > num_steps:
            raise ValueError(
                f"{name}: last={last} must be at most the number of inner steps, which "
                f"must be at least 0: got {num_steps}."
            )

        def solve(params: Params, args: Args) -> Params:
            if exact_steps:
                _check_derivative(optimizer, params)

            def step(exact, carry):
                params, state = carry
                grads = grad(loss)(params, args)
                if not exact:
                    grads = jax.lax.stop_gradient(grads)
                updates, state = optimizer.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            carry = params, optimizer.init(params)
            repeat = partial(_repeat, remat=remat, most_unrolled=most_unrolled)
            carry = repeat(partial(step, False), carry, num_steps - exact_steps)
            carry = repeat(partial(step, True), carry, exact_steps)
            return carry[0]

        return solve

    return adjoint


def _mixed_grad(loss: InnerLoss) -> Callable[[Params, Args], Params]:
    """`jax.grad(loss)` with a derivative that keeps nothing but its arguments."""

    def gradient(params: Params, args: Args) -> Params:
        # A custom rule knows its arguments alone: what the loss closes over joins them.
        traced = jax.make_jaxpr(loss)(params, args)

        def closed(params, args, consts):
            jaxpr = ClosedJaxpr(traced.jaxpr, consts)
            return jaxpr_as_fun(jaxpr)(*jax.tree.leaves((params, args)))[0]

        grads = _forward_over_reverse(closed, params, args, traced.consts)
        return checkpoint_name(grads, "inner_gradient")

    return gradient


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forward_over_reverse(loss, params, *args):
    return jax.grad(loss)(params, *args)


def _keep_arguments(loss, *arguments):
    # Named, since JAX 0.10 mixes up residuals that are arguments themselves where a
    # scan is differentiated twice.
    kept = checkpoint_name(arguments, "inner_arguments")
    return _forward_over_reverse(loss, *arguments), kept


def _product(loss, arguments, direction):
    params, *args = arguments
    # Integers have a derivative of type float0, as custom_vjp expects.
    everywhere = jax.grad(loss, argnums=tuple(range(len(arguments))), allow_int=True)
    along = jax.jvp(lambda params: everywhere(params, *args), (params,), (direction,))
    return along[1]


_forward_over_reverse.defvjp(_keep_arguments, _product)


def _repeat(step, carry, num_steps: int, remat: Remat, most_unrolled: int):
    """Applies `step` to `carry` a number of times, as one compiled loop or a nest."""
    if remat == "none":
        return _scan(step, carry, num_steps, unroll=num_steps <= most_unrolled)
    saved = jax.checkpoint_policies.save_only_these_names("inner_gradient")
    step = jax.checkpoint(step, prevent_cse=False, policy=saved)
    if remat == "step":
        return _scan(step, carry, num_steps)
    # As many segments, steps in each, and steps left over, as are fewest in sum.
    length = min(
        range(1, num_steps + 1),
        key=lambda length: length + sum(divmod(num_steps, length)),
        default=1,
    )
    segment = partial(_scan, step, num_steps=length)
    segment = jax.checkpoint(segment, prevent_cse=False)
    carry = _scan(segment, carry, num_steps=num_steps // length)
    return _scan(step, carry, num_steps=num_steps % length)


def _scan(step, carry, num_steps: int, unroll: bool = False):
    if not num_steps:
        return carry

    def body(carry, _):
        return step(carry), None

    return jax.lax.scan(body, carry, length=num_steps, unroll=unroll)[0]


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
