"""The inner loop, differentiated at the place where it comes to rest.

There grad loss(params, args) = 0 determines the params whatever the steps that led to
them, so that none of the steps is kept: memory does not depend on their number.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import optax

from metajax import backward
from metajax.adjoints.loops import product, unroll, with_constants
from metajax.base import Adjoint, Args, InnerLoss, Params, PyTree, Solve

LinearMap = Callable[[PyTree], PyTree]


class Solver(Protocol):
    """Solves `matrix(x) = vector` for `x`; the matrix is symmetric, trees are vectors."""

    def __call__(self, matrix: LinearMap, vector: PyTree) -> PyTree: ...


def cg(iterations: int = 10, tolerance: float = 1e-6) -> Solver:
    """Conjugate gradients, for a positive definite matrix.

    The error falls by `(sqrt(k) - 1) / (sqrt(k) + 1)` an iteration or faster, where k is
    the ratio of the greatest to the least eigenvalue.

    Args:
      iterations: the most, each a product with the matrix.
      tolerance: the residual, relative to the vector, at which it stops before.

    Returns:
      A solver.

    Source:
      Rajeswaran et al. 2019 (arXiv 1909.04630) use 5 iterations.
    """
    _check_iterations("cg", iterations, 1)

    def solve(matrix: LinearMap, vector: PyTree) -> PyTree:
        return jax.scipy.sparse.linalg.cg(
            matrix, vector, maxiter=iterations, tol=tolerance
        )[0]

    return solve


def gmres(iterations: int = 10, tolerance: float = 1e-6) -> Solver:
    """Generalised minimal residuals, for a matrix that may be indefinite.

    Args:
      iterations: how many, each a product with the matrix; as many vectors are held.
      tolerance: the residual, relative to the vector, at which it is content.

    Returns:
      A solver.
    """
    _check_iterations("gmres", iterations, 1)

    def solve(matrix: LinearMap, vector: PyTree) -> PyTree:
        return jax.scipy.sparse.linalg.gmres(
            matrix, vector, maxiter=1, restart=iterations, tol=tolerance
        )[0]

    return solve


def neumann(iterations: int = 10, rate: float = 0.1) -> Solver:
    """The first terms of the Neumann series.

        x = rate * sum_{i = 0}^{iterations} (I - rate * matrix)^i vector

    It is what gradient descent of that rate would back-propagate through its last steps
    at rest, and converges if rate < 2 / (greatest eigenvalue). `iterations=0, rate=1`
    takes the matrix for the identity: T1 - T2 of Luketina et al. 2016.

    Args:
      iterations: terms after the first, each a product with the matrix.
      rate: the scale; the rate of the inner loop is a good choice.

    Returns:
      A solver.

    Source:
      Lorraine, Vicol, Duvenaud 2020 (arXiv 1911.02590), algorithm 3.
    """
    _check_iterations("neumann", iterations, 0)
    if not rate > 0:
        raise ValueError(f"neumann: rate must be positive: got {rate}.")

    def solve(matrix: LinearMap, vector: PyTree) -> PyTree:
        def next_term(carry, _):
            total, term = carry
            term = optax.tree.add_scale(term, -rate, matrix(term))
            return (optax.tree.add(total, term), term), None

        start = vector, vector
        (total, _), _ = jax.lax.scan(next_term, start, length=iterations)
        return optax.tree.scale(rate, total)

    return solve


def dense() -> Solver:
    """Writes the matrix out and factors it: exact, for a few hundred params at most.

    Returns:
      A solver.
    """

    def solve(matrix: LinearMap, vector: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(vector)
        columns = jax.vmap(lambda x: ravel_pytree(matrix(unravel(x)))[0])
        return unravel(
            jnp.linalg.solve(columns(jnp.eye(flat.size, dtype=flat.dtype)), flat)
        )

    return solve


def _check_iterations(name: str, iterations: int, least: int) -> None:
    if iterations < least:
        raise ValueError(
            f"{name}: iterations must be at least {least}: got {iterations}."
        )


def implicit(
    solver: Solver | None = None,
    *,
    damping: float = 0.0,
    max_residual: float = 10.0,
) -> Adjoint:
    """Differentiates the inner loop as the minimum that it has come close to.

    At rest, grad loss(params, args) = 0. With H the Hessian by `params` there and M the
    derivative of that gradient by `args`, a cotangent v of the params becomes

        - M' q    where    (H + damping * I) q = v

    for `args`, and 0 for the params that the loop starts from. An initialisation is
    learned only through the loss, as by a proximal term (see `imaml`).

    The estimators report two metrics of it, averaged over tasks: `inner_gradient`, the
    norm of the gradient that is left after the inner loop, relative to that before it,
    which should be small; and `solver_residual`, the norm of `(H + damping * I) q - v`
    relative to v, which is 1 for q = 0.

    Args:
      solver: how the linear system is solved: `cg()` by default, `gmres`, `neumann`,
        `dense`, or any function of a linear map and a vector.
      damping: added to the Hessian, to make it definite, or smaller steps trusted.
      max_residual: where `solver_residual` exceeds it for a task, the meta-gradient
        becomes NaN, at which training stops: the solver has diverged.

    Returns:
      An adjoint, for reverse mode.

    Raises:
      ValueError: if damping is negative; by `solve`, if it is asked for what a state of
        rest does not depend on (parameters of single steps) or does not have (iterates).

    Source:
      Bengio 2000; Rajeswaran et al. 2019 (arXiv 1909.04630), section 3.
    """
    if damping < 0:
        raise ValueError(f"implicit: damping must be at least 0: got {damping}.")
    config = (solver or cg(), damping, max_residual)

    def adjoint(
        loss: InnerLoss, optimizer: optax.GradientTransformation, num_steps: int
    ) -> Solve:
        descend = unroll(last=0)(loss, optimizer, num_steps)

        def solve(
            params: Params, args: Args, per_step: PyTree = None, *, iterates=False
        ) -> Params:
            if per_step is not None or iterates:
                raise ValueError(
                    "implicit: the state of rest neither depends on what single steps "
                    "have of their own nor has iterates: use unroll or mixed_mode."
                )
            start = jax.lax.stop_gradient(params)
            still = jax.lax.stop_gradient(args)
            rest = jax.lax.stop_gradient(descend(start, still))
            if not num_steps:  # As after a step, each task has its own, so that under
                # vmap each has a cotangent of its own: the condition changes nothing.
                slope = jax.lax.stop_gradient(jax.grad(loss)(start, still))
                rest = jax.tree.map(lambda x, g: jnp.where(g == g, x, x), rest, slope)
            closed, consts = with_constants(loss, params, args)
            probes = tuple(map(backward.probe, backward.NAMES))
            return _at_rest(config, closed, rest, (args, consts), start, probes)

        return solve

    return adjoint


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _at_rest(config, loss, rest, arguments, start, probes):
    """`rest`, with the derivative of a minimum."""
    del config, loss, arguments, start, probes
    return rest


def _keep(config, loss, rest, arguments, start, probes):
    del config, probes
    return rest, (rest, arguments, start)


def _differentiate(config, loss, kept, cotangent):
    solver, damping, max_residual = config
    rest, arguments, start = kept
    gradient = jax.grad(lambda params: loss(params, *arguments))
    left, curvature = jax.linearize(gradient, rest)

    def matrix(direction):
        return optax.tree.add_scale(curvature(direction), damping, direction)

    solution = solver(matrix, cotangent)
    error = _norm(optax.tree.sub(matrix(solution), cotangent))
    residual = _ratio(error, _norm(cotangent))
    solution = jax.tree.map(
        lambda x: jnp.where(residual <= max_residual, x, jnp.nan), solution
    )
    _, *toward = product(loss, (rest, *arguments), optax.tree.scale(-1, solution))
    measured = _ratio(_norm(left), _norm(gradient(start))), residual
    zeros = jax.tree.map(jnp.zeros_like, start)
    return zeros, tuple(toward), zeros, measured


_at_rest.defvjp(_keep, _differentiate)


def _norm(tree: PyTree) -> jax.Array:
    return optax.tree.norm(tree).astype(jnp.float32)


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Where both are 0, as for a task of weight 0, so is the ratio."""
    return numerator / jnp.where(denominator > 0, denominator, 1)
