"""Convolution by matrix product is convolution, and so are its derivatives."""

from functools import partial
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.convolution import convolve, matmul

STRIDES = [(1, 1), (2, 2), (2, 1)]


def _lax_convolve(inputs, kernel, strides=(1, 1), padding="SAME"):
    return jax.lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _derivatives(convolution, strides, padding):
    """Value, gradient, and a second derivative, of a nonlinear use of the output."""

    def cost(arguments):
        return jnp.sum(jnp.sin(convolution(*arguments, strides, padding)))

    def squared_slope(arguments):
        return sum(jnp.sum(g**2) for g in jax.grad(cost)(arguments))

    @jax.jit
    def derivatives(inputs, kernel):
        arguments = (inputs, kernel)
        value = convolution(inputs, kernel, strides, padding)
        return value, jax.grad(cost)(arguments), jax.grad(squared_slope)(arguments)

    return derivatives


def _assert_close(actual, expected):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())

    jax.tree.map(check, actual, expected)


@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 1), (5, 3)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", STRIDES)
def test_convolve_equals_lax_convolution(strides, padding, kernel_size):
    inputs, kernel = _normal(0, 2, 7, 8, 3), _normal(1, *kernel_size, 3, 4)
    actual, expected = jax.jit(
        lambda *arrays: [
            f(*arrays, strides, padding) for f in (convolve, _lax_convolve)
        ]
    )(inputs, kernel)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize(
    "strides, padding, kernel_size, size",
    [
        ((1, 1), "SAME", (3, 3), (5, 6)),
        ((1, 1), "VALID", (5, 3), (7, 6)),
        ((2, 2), "SAME", (3, 3), (6, 5)),
        ((2, 2), "VALID", (1, 1), (6, 5)),
        ((2, 1), "SAME", (5, 3), (6, 5)),
        ((2, 1), "VALID", (3, 3), (6, 7)),
    ],
)
def test_derivatives_of_convolve_equal_those_of_lax(
    strides, padding, kernel_size, size
):
    inputs, kernel = _normal(0, 2, *size, 2), _normal(1, *kernel_size, 2, 3)
    actual = _derivatives(convolve, strides, padding)(inputs, kernel)
    expected = _derivatives(_lax_convolve, strides, padding)(inputs, kernel)
    _assert_close(actual, expected)


def test_convolve_with_a_kernel_per_task_equals_a_loop_over_tasks():
    inputs, kernels = _normal(0, 2, 2, 5, 6, 2), _normal(1, 2, 3, 3, 2, 3)
    each = jax.jit(jax.vmap(_derivatives(convolve, (2, 1), "SAME")))
    one = _derivatives(_lax_convolve, (2, 1), "SAME")
    loop = [one(*pair) for pair in zip(inputs, kernels)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
    _assert_close(each(inputs, kernels), expected)


@pytest.mark.parametrize(
    "convolution, expected", [(convolve, False), (_lax_convolve, True)]
)
def test_a_task_axis_makes_no_convolution_even_in_second_derivatives(
    convolution, expected
):
    program = jax.jit(jax.vmap(_derivatives(convolution, (2, 2), "SAME")))
    lowered = program.lower(_normal(0, 3, 2, 6, 6, 2), _normal(1, 3, 3, 3, 2, 4))
    assert ("convolution" in lowered.as_text()) == expected


def _sine_sum(product, lhs, rhs):
    """A nonlinear use of a product, so that derivatives of all orders differ."""
    return jnp.sum(jnp.sin(product(lhs, rhs)))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(7, 2, 3), (2, 7, 3), (3, 2, 7)])
def test_derivatives_of_matmul_equal_those_of_numpy_in_both_modes(sizes, order):
    rows, inner, columns = sizes
    lhs, rhs = _normal(0, rows, inner), _normal(1, inner, columns)
    direction = _normal(2, rows, inner), _normal(3, inner, columns)

    @partial(jax.jit, static_argnums=0)
    def derivatives(product):
        def slope(function):
            def along(lhs, rhs):
                grads = jax.grad(function, argnums=(0, 1))(lhs, rhs)
                return sum(jnp.sum(g * d) for g, d in zip(grads, direction))

            return along

        function = partial(_sine_sum, product)
        for _ in range(order - 1):
            function = slope(function)
        reverse = jax.grad(function, argnums=(0, 1))(lhs, rhs)
        forward = jax.jvp(jax.grad(function), (lhs, rhs), direction)
        return reverse, forward

    _assert_close(derivatives(matmul), derivatives(jnp.matmul))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (1, 2), (2, 0)])
def test_matmul_under_vmap_equals_a_loop_with_any_axis_and_shared_operands(axes):
    shapes = [[4, 5], [5, 6]]
    operands = []
    for seed, (shape, axis) in enumerate(zip(shapes, axes)):
        shape = shape if axis is None else [*shape[:axis], 3, *shape[axis:]]
        operands.append(_normal(seed, *shape))
    gradient = jax.grad(lambda *pair: _sine_sum(matmul, *pair), argnums=(0, 1))
    expected = jax.jit(
        jax.grad(lambda *pair: _sine_sum(jnp.matmul, *pair), argnums=(0, 1))
    )

    def each(i):
        return (
            x if axis is None else np.take(x, i, axis)
            for x, axis in zip(operands, axes)
        )

    loop = [expected(*each(i)) for i in range(3)]
    _assert_close(
        jax.jit(jax.vmap(gradient, axes))(*operands),
        jax.tree.map(lambda *leaves: np.stack(leaves), *loop),
    )


def test_a_kernel_shared_by_all_tasks_makes_one_product_of_all_their_rows():
    program = jax.make_jaxpr(jax.vmap(matmul, (0, None)))(
        _normal(0, 3, 4, 5), _normal(1, 5, 6)
    )
    products = [e for e in program.eqns if e.primitive.name == "matrix_product"]
    assert [e.outvars[0].aval.shape for e in products] == [(12, 6)]


def test_matmul_promotes_as_numpy_and_keeps_each_operand_its_own_type():
    lhs, rhs = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.float32)
    assert matmul(lhs, rhs).dtype == jnp.float32
    grads = jax.grad(lambda *pair: jnp.sum(matmul(*pair)), argnums=(0, 1))(lhs, rhs)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32]


def test_only_small_operands_are_transposed_in_second_order():
    """Copies are what the forms are there to avoid: they take as long as products."""
    rows, inner, columns = 40, 30, 2
    lhs, rhs = _normal(0, rows, inner), _normal(1, inner, columns)

    def squared_slope(lhs, rhs):
        return jnp.sum(jax.grad(_sine_sum, argnums=2)(matmul, lhs, rhs) ** 2)

    program = jax.jit(jax.grad(squared_slope, argnums=(0, 1))).lower(lhs, rhs)
    shapes = re.findall(
        r"stablehlo.transpose .*tensor<(\d+)x(\d+)xf32>$", program.as_text(), re.M
    )
    assert shapes
    assert all(int(m) * int(n) < rows * inner for m, n in shapes)


def test_precision_is_that_of_where_the_product_is_traced():
    def product(a, b):
        with jax.default_matmul_precision("highest"):
            return jnp.sum(matmul(a, b))

    matrix = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    text = jax.jit(jax.grad(product, argnums=(0, 1))).lower(matrix, matrix).as_text()
    assert text.count("dot_general") == text.count("HIGHEST, HIGHEST") == 2
