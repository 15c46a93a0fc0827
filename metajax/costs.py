"""What a program costs, read from its trace."""

import math
from typing import Any

from jax.extend.core import JaxprEqn, jaxprs_in_params


def matmul_flops(program: Any) -> int:
    """Floating-point operations of a program's matrix products and convolutions.

    A product of `[m, k]` and `[k, n]` counts `2 m k n`. What a scan repeats is counted
    as often as it runs, which XLA's own `cost_analysis` does not do, and what devices
    share is added up. The body of a `while_loop`, whose length is not known, counts
    once, and of the branches of a `cond` the dearest.

    Args:
      program: a traced program, as from `jax.make_jaxpr` or `jax.stages.Traced.jaxpr`,
        with its constants or without.

    Returns:
      The number of multiplications and additions.

    Example:
      >>> import jax
      >>> a, b = jax.numpy.ones((2, 3)), jax.numpy.ones((3, 5))
      >>> matmul_flops(jax.make_jaxpr(jax.numpy.matmul)(a, b))
      60
    """
    return sum(map(_flops, getattr(program, "jaxpr", program).eqns))


def _flops(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    # Arrays, as far as the operations below go; not all that programs handle are.
    reads: Any = [variable.aval for variable in equation.invars]
    writes: Any = [variable.aval for variable in equation.outvars]
    if name == "dot_general":
        shape = reads[0].shape
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * writes[0].size * math.prod(shape[d] for d in contracted)
    if name == "matrix_product":  # That of models/convolution.
        inner = reads[0].shape[-2 if params["form"] == "tn" else -1]
        return 2 * writes[0].size * inner
    if name == "conv_general_dilated":
        kernel, layout = reads[1], params["dimension_numbers"].rhs_spec
        features = kernel.shape[layout[0]]
        return 2 * writes[0].size * kernel.size // features
    inner = [matmul_flops(program) for program in jaxprs_in_params(params)]
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return params["mesh"].size * sum(inner)
    return (params["length"] if name == "scan" else 1) * sum(inner)
