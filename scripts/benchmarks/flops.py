"""How much arithmetic an outer step needs, from the mathematics alone.

With `m` multiplications of a layer for one example, forward costs `m`, the gradient of
its kernel `m`, and the gradient of its input `m`, which the first layer does not need.
To differentiate an inner step once more, each of these products with two operands that
depend on the parameters gives two products, and each of those with one gives one.

                          first layer    others
    a gradient            2 m            3 m
    its own derivative    2 m            6 m

The products counted are those of layers, padding included, at two operations for a
multiplication and its addition. Normalisation, losses and updates are not counted, and
nothing that is recomputed to save memory.
"""

import numpy as np

from .workloads import Workload, layers

MATMUL_SIZE = 4096  # Of the square product that says what the machine can do.


def matmul() -> int:
    """Floating-point operations of that product."""
    return 2 * MATMUL_SIZE**3


def outer_step(workload: Workload) -> int:
    """Floating-point operations of one outer step."""
    first, *others = [
        int(np.prod(layer.kernel_shape)) * layer.places for layer in layers(workload)
    ]
    gradient = 2 * first + 3 * sum(others)
    inner_step = gradient
    if workload.order == 2:
        inner_step += 2 * first + 6 * sum(others)
    support = workload.ways * workload.shots * workload.inner_steps
    query = workload.ways * workload.queries
    return 2 * workload.num_tasks * (support * inner_step + query * gradient)
