"""What a program costs, read from its trace."""

import math

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def matmul_flops(program: ClosedJaxpr | Jaxpr) -> int:
    """Floating-point operations of a program's matrix products and convolutions.

    A product of `[m, k]` and `[k, n]` counts `2 m k n`. What a scan repeats is counted
    as often as it runs, which XLA's own `cost_analysis` does not do, and what devices
    share is added up. The body of a `while_loop`, whose length is not known, counts
    once, and of the branches of a `cond` the dearest.

    Args:
      program: a traced program, as from `jax.make_jaxpr` or `jax.stages.Traced.jaxpr`.

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
    if name == "dot_general":
        shape = equation.invars[0].aval.shape
        (contracted, _), _ = params["dimension_numbers"]
        return (
            2 * equation.outvars[0].aval.size * math.prod(shape[d] for d in contracted)
        )
    if name == "matrix_product":  # That of models/convolution.
        lhs = equation.invars[0].aval
        inner = lhs.shape[-2] if params["form"] == "tn" else lhs.shape[-1]
        return 2 * equation.outvars[0].aval.size * inner
    if name == "conv_general_dilated":
        kernel, layout = equation.invars[1].aval, params["dimension_numbers"].rhs_spec
        features = kernel.shape[layout[0]]
        return 2 * equation.outvars[0].aval.size * kernel.size // features
    inner = [matmul_flops(program) for program in _programs(params.values())]
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return params["mesh"].size * sum(inner)
    return (params["length"] if name == "scan" else 1) * sum(inner)


def _programs(values) -> list[ClosedJaxpr | Jaxpr]:
    found = []
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _programs(value)
    return found
