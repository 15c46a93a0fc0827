"""Columns in the light of known rows, and ridge regressions on them in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# What is added to kernels' diagonals, and the squared length scales of Gaussian ones a
# column; of inf, the kernel is linear.
_EXPERTS = ((3.0, jnp.inf), (0.3, 2.0), (0.1, 0.3))
NUM_EXPERTS = len(_EXPERTS)
_SMALL = 128  # Rows whose matrix is inverted by sweeps.


class Fitted(NamedTuple):
    """Ridge regressions of rows that are known."""

    points: jax.Array  # `[rows, 3 * columns]`
    columns: jax.Array  # How many have values.
    duals: jax.Array  # `[experts, rows, outputs]`


def view(known: jax.Array, features: jax.Array) -> jax.Array:
    """Each value beside the known ones of its column.

    Args:
      known: `[rows, columns]`, NaN where a value is missing.
      features: `[others, columns]`, likewise.

    Returns:
      `[others, columns, 4]`: the value less the column's mean, in its standard deviations,
      large ones drawn in; its rank, from -1 to 1; the share of values equal to it; and
      whether it is missing, where the others are 0.
    """
    real, missing = ~jnp.isnan(known), jnp.isnan(features)
    count = jnp.maximum(real.sum(axis=0, keepdims=True), 1).astype(features.dtype)
    values = jnp.where(real, known, 0)
    mean = values.sum(axis=0, keepdims=True) / count
    centered = jnp.where(real, values - mean, 0)
    std = jnp.sqrt(jnp.square(centered).sum(axis=0, keepdims=True) / count)
    z = jnp.where(missing, 0, features - mean) / jnp.where(std > 0, std, 1)
    z = z / (1 + jnp.abs(z) / 8)
    # NaN is neither below nor above anything.
    below = jnp.sum(known[None] < features[:, None], axis=1).astype(z.dtype)
    above = jnp.sum(known[None] > features[:, None], axis=1).astype(z.dtype)
    equal = jnp.sum(known[None] == features[:, None], axis=1).astype(z.dtype)
    seen = jnp.stack([z, (below - above) / count, equal / count], axis=-1)
    seen = jnp.where(missing[..., None], 0, seen)
    seen = jnp.concatenate([seen, missing[..., None].astype(z.dtype)], axis=-1)
    return jnp.where(jnp.any(real, axis=0)[None, :, None], seen, 0)


def fit(
    seen: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[Fitted, jax.Array]:
    """Ridge regressions of known rows, and what each says of a row from the others.

        duals = (kernel + 1 + penalty I)^-1 targets
        guess[i] = targets[i] - duals[i] / ((kernel + 1 + penalty I)^-1)[i, i]

    Args:
      seen: `[rows, columns, 4]`, from `view`.
      targets: `[rows, outputs]`.
      mask: the rows that count, `[rows]`.

    Returns:
      What `guess` needs, and guesses `[experts, rows, outputs]`.

    Source:
      Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equation 5.12.
    """
    points, columns = _points(seen), jnp.sum(jnp.any(seen != 0, axis=(0, 2)))
    targets = jnp.where(mask[:, None], targets, 0)
    both = mask[:, None] & mask[None]

    kernels = jnp.stack(_kernels(points, points, columns))
    penalties = jnp.array([penalty for penalty, _ in _EXPERTS])
    diagonal = penalties[:, None, None] * jnp.eye(len(mask))[None]
    inverses = inverse(jnp.where(both[None], kernels, 0) + diagonal)
    duals = inverses @ targets[None]
    guesses = targets[None] - duals / jnp.diagonal(inverses, 0, 1, 2)[..., None]
    return Fitted(points, columns, duals), guesses


def inverse(matrices: jax.Array) -> jax.Array:
    """Inverses of symmetric positive definite matrices, `[..., n, n]`.

    Note:
      Small ones by sweeps: LAPACK, which takes many of them one by one, needs far longer
      on CPUs.
    """
    if matrices.shape[-1] > _SMALL:
        return jnp.linalg.inv(matrices)

    def sweep(k, matrices):
        column = matrices[..., k]
        pivot = column[..., k, None]
        scaled = column / pivot
        matrices = matrices - column[..., None] * scaled[..., None, :]
        matrices = matrices.at[..., k].set(scaled).at[..., k, :].set(scaled)
        return matrices.at[..., k, k].set(-1 / pivot[..., 0])

    return -jax.lax.fori_loop(0, matrices.shape[-1], sweep, matrices)


def guess(fitted: Fitted, seen: jax.Array) -> jax.Array:
    """What ridge regressions say of other rows, `[experts, others, outputs]`."""
    kernels = _kernels(_points(seen), fitted.points, fitted.columns)
    return jnp.stack([k @ duals for k, duals in zip(kernels, fitted.duals)])


def _points(seen: jax.Array) -> jax.Array:
    z, rank, _, missing = jnp.moveaxis(seen, -1, 0)
    return jnp.concatenate([z, 1.7 * rank, missing], axis=1)


def _kernels(a: jax.Array, b: jax.Array, columns: jax.Array) -> list[jax.Array]:
    inner = a @ b.T
    lengths = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None]
    columns = jnp.maximum(columns, 1).astype(a.dtype)
    distances = jnp.maximum(lengths - 2 * inner, 0) / columns

    def kernel(scale):
        # The 1 is a constant that costs as much as a weight.
        return 1 + (inner if scale == jnp.inf else jnp.exp(-distances / (2 * scale)))

    return [kernel(scale) for _, scale in _EXPERTS]
