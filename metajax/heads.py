"""Classifiers over features, in closed form or nearly: mathematics without params."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import optax

from metajax import contracts
from metajax.base import without_padding

_BARRIER = 1e-5  # With qpax's own, 1e-3, derivatives were up to 12% off.
_NEWTON_STEPS = 12
_STEP_SIZES = tuple(0.5**power for power in range(6))


def memberships(
    targets: jax.Array, ways: int, mask: jax.Array | None = None, dtype=jnp.float32
) -> jax.Array:
    """Which class each example is of, `[examples, ways]`: 1 there, 0 elsewhere.

    Args:
      targets: class labels, `[examples]`, integers.
      ways: classes.
      mask: True for real examples, `[examples]`; None if all are.
      dtype: of the result.

    Returns:
      One row an example; those of padding are zeros.

    Raises:
      ValueError: if the labels are not integers, or known to be out of range.
    """
    contracts.check_labels("memberships", targets, targets.shape[:1], ways, mask)
    rows = jax.nn.one_hot(targets, ways, dtype=dtype)
    return rows if mask is None else rows * mask[:, None].astype(dtype)


def class_means(features: jax.Array, memberships: jax.Array) -> jax.Array:
    """The mean of each class.

        means[c] = sum_i memberships[i, c] features[i] / sum_i memberships[i, c]

    Args:
      features: `[examples, features]`.
      memberships: `[examples, ways]`, see `memberships`.

    Returns:
      `[ways, features]`; zeros for a class without example.
    """
    features = without_padding(features, memberships.sum(axis=1) > 0)
    counts = jnp.maximum(memberships.sum(axis=0), 1)
    return memberships.T @ features / counts[:, None]


def hide_absent(logits: jax.Array, counts: jax.Array) -> jax.Array:
    """Makes classes without support impossible to predict, but no loss infinite.

    Args:
      logits: `[queries, ways]`.
      counts: support examples of each class, `[ways]`.

    Returns:
      The logits; -1e9 for classes that no example is of.
    """
    hidden = max(-1e9, float(jnp.finfo(logits.dtype).min))
    return jnp.where(counts[None] > 0, logits, jnp.asarray(hidden, logits.dtype))


def squared_distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """Squared Euclidean distances, `|a[i] - b[j]|**2`.

    Args:
      a: `[m, features]`.
      b: `[n, features]`.

    Returns:
      `[m, n]`, as `|a|**2 - 2 a.b + |b|**2`, by one matrix product.
    """
    lengths = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None]
    return lengths - 2 * a @ b.T


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosines of the angles between vectors; 0 where one of them is zero.

    Args:
      a: `[m, features]`.
      b: `[n, features]`.

    Returns:
      `[m, n]`.
    """
    return _unit(a) @ _unit(b).T


def _unit(vectors: jax.Array) -> jax.Array:
    squares = jnp.sum(vectors * vectors, axis=1, keepdims=True)
    # The root of zero has no derivative.
    return vectors * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))


def ridge(
    features: jax.Array,
    memberships: jax.Array,
    regularization: jax.Array | float,
) -> jax.Array:
    """Ridge regression of class memberships, in closed form.

        argmin_W |features W - memberships|**2 + regularization |W|**2
          = features^T (features features^T + regularization I)^-1 memberships

    Args:
      features: `[examples, features]`.
      memberships: `[examples, ways]`; rows of zeros are padding.
      regularization: positive.

    Returns:
      The weights W, `[features, ways]`.

    Note:
      Solved by Cholesky's method in the smaller of the two spaces (Woodbury's identity),
      in float32 at least. The regularisation is raised by the rounding error of the
      matrix's trace, below which it would not be felt.
    """
    dtype, (features, memberships) = features.dtype, _wide(features, memberships)
    dual = features.shape[0] <= features.shape[1]
    gram = features @ features.T if dual else features.T @ features
    raised = regularization + jnp.finfo(gram.dtype).eps * jnp.trace(gram)
    factor = jax.scipy.linalg.cho_factor(gram + raised * jnp.eye(len(gram)))
    if dual:
        weights = features.T @ jax.scipy.linalg.cho_solve(factor, memberships)
    else:
        weights = jax.scipy.linalg.cho_solve(factor, features.T @ memberships)
    return weights.astype(dtype)


def _wide(features: jax.Array, memberships: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in float32 at least, the features of padding as zeros."""
    wide = jnp.promote_types(features.dtype, jnp.float32)
    features = without_padding(features, memberships.sum(axis=1) > 0)
    return features.astype(wide), memberships.astype(wide)


def logistic(
    features: jax.Array,
    memberships: jax.Array,
    regularization: jax.Array | float,
) -> jax.Array:
    """Multinomial logistic regression, differentiated at its optimum.

        argmin_W  sum_i cross_entropy(features[i] W, memberships[i])
                  + regularization / 2 |W|**2

    Args:
      features: `[examples, features]`.
      memberships: `[examples, ways]`; rows of zeros are padding.
      regularization: positive.

    Returns:
      The weights W, `[features, ways]`.

    Note:
      W is a combination of the features, `features^T duals`, so that Newton's method
      solves for `examples * ways` numbers, in float32 at least; each step is halved as
      often as lowers the objective most. The derivative is that of the optimality
      condition (implicit function theorem).
    """
    dtype, (features, memberships) = features.dtype, _wide(features, memberships)
    real = memberships.sum(axis=1, keepdims=True)
    gram = features @ features.T

    def remainder(duals):  # Zero at the optimum.
        probabilities = jax.nn.softmax(gram @ duals)
        return real * probabilities - memberships + regularization * duals

    def objective(duals):
        logits = gram @ duals
        losses = optax.softmax_cross_entropy(logits, memberships)
        return losses.sum() + regularization / 2 * jnp.sum(duals * logits)

    def newton(_, duals):
        step = _solve_dense(jax.linearize(remainder, duals)[1], -remainder(duals))
        tried = jnp.stack([duals + size * step for size in _STEP_SIZES])
        return tried[jnp.argmin(jax.vmap(objective)(tried))]

    def solve(_, start):
        return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, start)

    start = jnp.zeros_like(memberships)
    duals = jax.lax.custom_root(remainder, start, solve, _solve_dense)
    return (features.T @ duals).astype(dtype)


def support_vectors(
    features: jax.Array,
    memberships: jax.Array,
    regularization: jax.Array | float,
) -> jax.Array:
    """A support vector machine of many classes, differentiated at its optimum.

        argmin_W  sum_i max_c (features[i] (W[:, c] - W[:, class_i]) + [c != class_i])
                  + regularization / 2 |W|**2

    Args:
      features: `[examples, features]`.
      memberships: `[examples, ways]`; rows of zeros are padding.
      regularization: positive.

    Returns:
      The weights W, `[features, ways]`.

    Raises:
      ImportError: if qpax is not installed, by `pip install 'metajax[svm]'`.

    Source:
      Crammer and Singer 2001, "On the Algorithmic Implementation of Multiclass
      Kernel-based Vector Machines", whose dual a solver of quadratic programs solves for
      `examples * ways` numbers, in float32 at least.

    Note:
      W has kinks where an example joins or leaves the support vectors; the derivative is
      that of a problem with barriers, which round them off.
    """
    dtype, (features, memberships) = features.dtype, _wide(features, memberships)
    examples, ways = memberships.shape
    gram = features @ features.T
    # Examples of length 1 on average, which the solver's tolerance is made for.
    scale = jnp.trace(gram) / jnp.maximum(memberships.sum(), 1)
    scale = jax.lax.stop_gradient(jnp.where(scale > 0, scale, 1))
    definite = gram / scale + 1e-5 * jnp.eye(examples)
    real = memberships.sum(axis=1, keepdims=True) > 0
    most = jnp.where(real, memberships * scale / regularization, 1)
    duals = _quadratic_program(
        jnp.kron(definite, jnp.eye(ways)),
        -memberships.ravel(),
        jnp.kron(jnp.eye(examples), jnp.ones((1, ways))),
        jnp.zeros(examples),
        jnp.eye(examples * ways),
        most.ravel(),
    )
    weights = features.T @ duals.reshape(examples, ways) / scale
    return weights.astype(dtype)


@contextmanager
def _lenient() -> Iterator[None]:
    """What qpax needs of JAX's strict modes, forward and back."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _solve_program(*program: jax.Array) -> jax.Array:
    try:
        import qpax
    except ImportError:
        raise ImportError(
            "A support vector machine needs qpax: pip install 'metajax[svm]'."
        ) from None
    with _lenient():
        return qpax.solve_qp_primal(*program, target_kappa=_BARRIER)


def _forward(*program: jax.Array):
    return jax.vjp(_solve_program, *program)


def _backward(pull_back: Callable, cotangent: jax.Array):
    with _lenient():
        return pull_back(cotangent)


_quadratic_program = jax.custom_vjp(_solve_program)
_quadratic_program.defvjp(_forward, _backward)


def _solve_dense(product, target: jax.Array) -> jax.Array:
    """Solves `product(x) = target` for a linear function, as a matrix."""
    units = jnp.eye(target.size).reshape(-1, *target.shape)
    matrix = jax.vmap(product)(units).reshape(target.size, target.size).T
    return jnp.linalg.solve(matrix, target.ravel()).reshape(target.shape)
