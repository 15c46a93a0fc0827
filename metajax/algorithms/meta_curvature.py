"""Meta-Curvature: inner gradients transformed by learned matrices.

    adapted = params - rate * (grad loss x_1 M_1 x_2 M_2 ...)     (num_steps times)
    minimise over params, M:  mean over tasks of loss(adapted, query)

where x_k M_k multiplies the k-th axis of each parameter's gradient by a matrix M_k, which
starts as the identity; the two spatial axes of a convolution count as one.

Park, Oliva 2019, "Meta-Curvature", arXiv 1902.03356, section 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax import adjoints, contracts, losses, trees
from metajax.base import Adjoint, Batch, Key, Loss, MetaLearner, Model, Params, PyTree
from metajax.learners import adapting_params


class WithCurvature(NamedTuple):
    """Params to start from, and for each a tuple of matrices, one an axis."""

    params: Params
    matrices: PyTree


def meta_curvature(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """Meta-Curvature: MAML whose inner gradients pass through meta-learned matrices.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, which is given the transformed gradients.
      num_steps: inner steps, all with the same matrices.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default.

    Returns:
      A meta-learner whose meta-parameters are `WithCurvature`, and whose adapted ones
      are model params as `model.calibrate` leaves them.

    Note:
      Every axis of every parameter has its matrix, vectors included (MC2 in the paper,
      where M_o, M_i and M_f are those of outputs, inputs and filters).
    """
    contracts.check_optimizer(optimizer)
    adjoint = adjoint or adjoints.unroll()
    support_loss = losses.of_model(model, loss)

    def init(key: Key, inputs: PyTree) -> WithCurvature:
        params = model.init(key, inputs)
        return WithCurvature(params, jax.tree.map(_identities, params))

    def adapt(key: Key, meta: WithCurvature, support: Batch) -> Params:
        del key  # The inner loop is deterministic.

        def transform(grads, params):
            del params
            return trees.map_given(_multiply_axes, grads, meta.matrices)

        chained = optax.chain(optax.stateless(transform), optimizer)
        return adjoint(support_loss, chained, num_steps)(meta.params, support)

    return adapting_params(model, adapt, init)


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the axes, with all before the last two as one."""
    return (-1, *shape[-2:]) if len(shape) > 2 else shape


def _identities(leaf: jax.Array) -> tuple[jax.Array, ...]:
    sizes = leaf.reshape(_axes(leaf.shape)).shape
    return tuple(jnp.eye(size, dtype=leaf.dtype) for size in sizes)


def _multiply_axes(grad: jax.Array, matrices: tuple[jax.Array, ...]) -> jax.Array:
    product = grad.reshape(_axes(grad.shape))
    for axis, matrix in enumerate(matrices):
        product = jnp.moveaxis(jnp.tensordot(matrix, product, (1, axis)), 0, axis)
    return product.reshape(grad.shape)
