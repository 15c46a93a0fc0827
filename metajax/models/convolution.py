"""Convolution that stays a product of matrices under `vmap` and in every derivative.

`vmap` over tasks with their own kernels turns `lax.conv` into a grouped convolution, and
its derivatives too, which XLA runs many times slower on a CPU. Here a convolution is
patches times kernel, and `vmap` makes it a batched matrix product.

Such a product and its derivatives are three bilinear maps, each of which is the
derivative of the others:

    nn(a, b) = a b        nt(a, b) = a b'        tn(a, b) = a' b

JAX would derive the second order from the first by its rule for any `dot_general`, whose
results come out transposed, to be copied by XLA, which takes as long as the products of
kernels this small. As a primitive with these three forms nothing but the smaller operand
is ever transposed.
"""

from functools import partial

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp


def convolve(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int] = (1, 1),
    padding: str = "SAME",
) -> jax.Array:
    """2-D convolution as one matrix product of shifted slices with the kernel.

        outputs[n, y, x] = sum_ij inputs[n, y * stride + i, x * stride + j] @ kernel[i, j]

    Args:
      inputs: `[examples, height, width, channels]`.
      kernel: `[kernel height, kernel width, channels, features]`.
      strides: vertical and horizontal stride, in pixels.
      padding: "SAME" or "VALID", as in `lax.conv_general_dilated`.

    Returns:
      `[examples, out height, out width, features]`.
    """
    (height, width, _, features), (down, right) = kernel.shape, strides
    pads = jax.lax.padtype_to_pads(inputs.shape[1:3], (height, width), strides, padding)
    inputs = jnp.pad(inputs, [(0, 0), *pads, (0, 0)])
    bottom = inputs.shape[1] - height + 1
    edge = inputs.shape[2] - width + 1
    slices = [
        inputs[:, i : bottom + i : down, j : edge + j : right]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(slices, axis=-1)
    *positions, size = patches.shape
    outputs = matmul(patches.reshape(-1, size), kernel.reshape(size, features))
    return outputs.reshape(*positions, features)


def matmul(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """The product of two matrices, in derivatives of any order by the forms above.

    Args:
      lhs: `[rows, inner]`.
      rhs: `[inner, columns]`.

    Returns:
      `[rows, columns]`.
    """
    dtype = jnp.result_type(lhs, rhs)
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return _bind("nn", precision, lhs.astype(dtype), rhs.astype(dtype))


def _multiply(lhs: jax.Array, rhs: jax.Array, *, form: str, precision) -> jax.Array:
    """Any of the three forms; further axes, in front, are those of tasks."""
    einsum = partial(jnp.einsum, precision=precision)
    if form == "nn":
        return einsum("...mk,...kn->...mn", lhs, rhs)
    if form == "nt":
        return einsum("...mn,...kn->...mk", lhs, rhs)
    (rows, inner), columns = lhs.shape[-2:], rhs.shape[-1]
    # The barriers keep XLA from taking the transpositions back into the products.
    barrier = jax.lax.optimization_barrier
    if rows * inner <= (rows + inner) * columns:
        lhs = barrier(jnp.swapaxes(lhs, -1, -2))
        return einsum("...km,...mn->...kn", lhs, rhs)
    product = barrier(einsum("...mk,...mn->...nk", lhs, rhs))
    return jnp.swapaxes(product, -1, -2)


def _shape(lhs, rhs, *, form, precision):
    product = jax.eval_shape(
        partial(_multiply, form=form, precision=precision), lhs, rhs
    )
    return ShapedArray(product.shape, product.dtype)


def _bind(form, precision, lhs, rhs):
    return _product.bind(lhs, rhs, form=form, precision=precision)


def _lhs_cotangent(direction, lhs, rhs, *, form, precision):
    del lhs
    if form == "tn":
        return _bind("nt", precision, rhs, direction)
    return _bind("nt" if form == "nn" else "nn", precision, direction, rhs)


def _rhs_cotangent(direction, lhs, rhs, *, form, precision):
    del rhs
    if form == "nt":
        return _bind("tn", precision, direction, lhs)
    return _bind("tn" if form == "nn" else "nn", precision, lhs, direction)


def _batch(arguments, axes, *, form, precision):
    """Adds an axis of tasks in front; with a shared `rhs` tasks are more rows."""
    (lhs, rhs), (lhs_axis, rhs_axis) = arguments, axes
    if rhs_axis is None and form != "tn" and lhs.ndim == 3:
        lhs = jnp.moveaxis(lhs, lhs_axis, 0)
        product = _bind(form, precision, lhs.reshape(-1, lhs.shape[-1]), rhs)
        return product.reshape(*lhs.shape[:2], -1), 0
    size = next(x.shape[a] for x, a in zip(arguments, axes) if a is not None)
    lhs, rhs = (
        jnp.broadcast_to(x, (size, *x.shape)) if a is None else jnp.moveaxis(x, a, 0)
        for x, a in zip(arguments, axes)
    )
    return _bind(form, precision, lhs, rhs), 0


_product = Primitive("matrix_product")
_product.def_impl(_multiply)
_product.def_abstract_eval(_shape)
mlir.register_lowering(_product, mlir.lower_fun(_multiply, multiple_results=False))
ad.defbilinear(_product, _lhs_cotangent, _rhs_cotangent)
batching.primitive_batchers[_product] = _batch
