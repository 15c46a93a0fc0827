"""The inner loop, differentiated step by step: unrolled, or in mixed mode."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.core import eval_jaxpr
import jax.numpy as jnp
import optax

from metajax import contracts
from metajax.adjoints import updates
from metajax.base import Adjoint, Args, InnerLoss, Params, PyTree, Solve

Remat = Literal["none", "step", "nested", "tree"]

_BRANCHES = 4  # Of each segment of a tree; more take memory, fewer time.


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
        params of about 2 sqrt(steps) steps, for one more evaluation of each. "tree":
        four segments, in each of them four, and so on, so that memory holds the params
        of about 4 log4(steps) steps, for log4(steps) evaluations of each.

    Returns:
      An adjoint.

    Raises:
      ValueError: if `last` is negative or `remat` is none of those; by the adjoint, if
        `last` exceeds the number of steps, if the optimizer evaluates a function, or if
        its derivative is not finite at zero gradients.

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
    ) -> Solve:
        contracts.check_optimizer(optimizer)
        exact_steps = _exact_steps(name, last, num_steps)

        def solve(
            params: Params, args: Args, per_step: PyTree = None, *, iterates=False
        ) -> Params:
            _check_per_step(per_step, num_steps)
            if exact_steps:
                updates.check_derivative(optimizer, params, num_steps, exact_steps)
            takes_value = updates.takes_value(optimizer, params)

            def step(exact, carry, own):
                params, state = carry
                step_args = (args,) if per_step is None else (args, own)
                grads = grad(loss)(params, *step_args)
                value = loss(params, *step_args) if takes_value else None
                if not exact:
                    grads, value = jax.lax.stop_gradient((grads, value))
                moves, state = updates.update(optimizer, grads, state, params, value)
                params = optax.apply_updates(params, moves)
                return (params, state), params if iterates else None

            first, then = _split(per_step, num_steps - exact_steps)
            carry = params, optimizer.init(params)
            repeat = partial(_repeat, remat=remat, most_unrolled=most_unrolled)
            carry, early = repeat(
                partial(step, False), carry, first, num_steps - exact_steps
            )
            carry, late = repeat(partial(step, True), carry, then, exact_steps)
            if not iterates:
                return carry[0]
            start = jax.tree.map(lambda leaf: leaf[None], params)
            return _concatenate([start, early, late])

        return solve

    return adjoint


def _exact_steps(name: str, last: int | None, num_steps: int) -> int:
    contracts.check_num_steps(num_steps)
    exact_steps = num_steps if last is None else last
    if num_steps < 0 or exact_steps > num_steps:
        raise ValueError(
            f"{name}: last={last} must be at most the number of inner steps, which "
            f"must be at least 0: got {num_steps}."
        )
    return exact_steps


def _check_per_step(per_step: PyTree, num_steps: int) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(per_step)]
    if any(shape[:1] != (num_steps,) for shape in shapes):
        raise ValueError(
            f"per_step must have one entry for each of the {num_steps} inner steps: its "
            f"leaves have shapes {', '.join(map(str, shapes))}."
        )


def _mixed_grad(loss: InnerLoss) -> Callable[..., Params]:
    """`jax.grad(loss)` with a derivative that keeps nothing but its arguments."""

    def gradient(params: Params, *args: Args) -> Params:
        closed, consts = with_constants(loss, params, *args)
        grads = _forward_over_reverse(closed, params, args, consts)
        return checkpoint_name(grads, "inner_gradient")

    return gradient


def with_constants(loss: InnerLoss, params: Params, *args: Args):
    """A loss of its arguments alone: what it closes over becomes one of them.

    A custom rule for derivatives knows no other.

    Returns:
      `closed`, such that `closed(params, args, consts)` is `loss(params, *args)`, and
      `consts`.
    """
    traced = jax.make_jaxpr(loss)(params, *args)

    def closed(params, args, consts):
        leaves = jax.tree.leaves((params, args))
        return eval_jaxpr(traced.jaxpr, consts, *leaves)[0]

    return closed, traced.consts


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forward_over_reverse(loss, params, *args):
    return jax.grad(loss)(params, *args)


def _keep_arguments(loss, *arguments):
    # Named, since JAX 0.10 mixes up residuals that are arguments themselves where a
    # scan is differentiated twice.
    kept = checkpoint_name(arguments, "inner_arguments")
    return _forward_over_reverse(loss, *arguments), kept


def product(loss, arguments, direction):
    """Derivatives of `grad(loss) . direction`, with the gradient by the first argument.

    Args:
      loss: a function of some arguments.
      arguments: where, the first of them its params.
      direction: a tree like the params.

    Returns:
      One tree for each argument; of type float0 for integers, as custom_vjp expects.
    """
    params, *args = arguments
    everywhere = jax.grad(loss, argnums=tuple(range(len(arguments))), allow_int=True)
    along = jax.jvp(lambda params: everywhere(params, *args), (params,), (direction,))
    return along[1]


_forward_over_reverse.defvjp(_keep_arguments, product)


def _repeat(step, carry, xs, num_steps: int, remat: Remat, most_unrolled: int):
    """`lax.scan` of a number of steps, as one compiled loop, a nest, or none."""
    if remat == "none":
        return _scan(step, carry, xs, num_steps, unroll=num_steps <= most_unrolled)
    saved = jax.checkpoint_policies.save_only_these_names("inner_gradient")
    step = jax.checkpoint(step, prevent_cse=False, policy=saved)
    if remat == "step":
        return _scan(step, carry, xs, num_steps)
    if remat == "tree":
        return _tree(step, carry, xs, num_steps)
    # As many segments, steps in each, and steps left over, as are fewest in sum.
    length = min(
        range(1, num_steps + 1),
        key=lambda length: length + sum(divmod(num_steps, length)),
        default=1,
    )
    return _in_segments(partial(_scan, step), carry, xs, num_steps, length)


def _tree(step, carry, xs, num_steps: int):
    """Segments within segments, each recomputed from its start."""
    length = 1
    while length * _BRANCHES < num_steps:
        length *= _BRANCHES
    if length == 1:
        return _scan(step, carry, xs, num_steps)
    return _in_segments(partial(_tree, step), carry, xs, num_steps, length)


def _in_segments(run, carry, xs, num_steps: int, length: int):
    """As many segments of a length as there are, each recomputed, and what is left."""
    number = num_steps // length
    segment = jax.checkpoint(partial(run, num_steps=length), prevent_cse=False)
    first, rest = _split(xs, number * length)
    first = jax.tree.map(lambda x: x.reshape(number, length, *x.shape[1:]), first)
    carry, early = _scan(segment, carry, first, num_steps=number)
    early = jax.tree.map(lambda y: y.reshape(number * length, *y.shape[2:]), early)
    carry, late = run(carry, rest, num_steps=num_steps % length)
    return carry, _concatenate([early, late])


def _scan(step, carry, xs, num_steps: int, unroll: bool = False):
    if not num_steps:
        return carry, None
    return jax.lax.scan(step, carry, xs, length=num_steps, unroll=unroll)


def _split(tree: PyTree, index: int) -> tuple[PyTree, PyTree]:
    """What leaves have before an index, and from there on."""
    return tuple(
        jax.tree.map(lambda leaf: leaf[part], tree)  # noqa: B023
        for part in (slice(None, index), slice(index, None))
    )


def _concatenate(trees: list[PyTree]) -> PyTree:
    """Joins leaves along their first axis; a tree that is None has no steps."""
    trees = [tree for tree in trees if tree is not None]
    if len(trees) < 2:
        return trees[0] if trees else None
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)
