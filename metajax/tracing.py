"""Tracing a function once, where JAX would do it twice."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from metajax.base import PyTree


def trace_once(function: Callable, *arguments: PyTree) -> tuple[Callable, Any]:
    """A function that is not traced again, and the shapes that it returns.

    A loop needs shapes before it traces its body, and JAX does not always know that it has
    seen the same: it tells arrays apart by the mesh that they are on.

    Args:
      function: what to trace.
      *arguments: such as it will be called with, or their shapes and dtypes.

    Returns:
      The function for such arguments, and the shapes and dtypes of its result.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    call = jaxpr_as_fun(program)

    def traced(*arguments: PyTree) -> Any:
        leaves = call(*jax.tree.leaves(arguments))
        return jax.tree.structure(shapes).unflatten(leaves)

    return traced, shapes
