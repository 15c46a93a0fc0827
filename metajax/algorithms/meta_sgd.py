"""Meta-SGD: an initialisation, and a rate for each parameter, learned together.

    adapted = params - rates * grad loss(params, support)     (num_steps times)
    minimise over params, rates:  mean over tasks of loss(adapted, query)

with an elementwise product: rates give the direction of a step as well as its length,
and may become negative.

Li, Zhou, Chen, Li 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
arXiv 1707.09835, algorithm 1.
"""

from typing import NamedTuple

import jax
import optax

from metajax import adjoints, losses
from metajax.base import Adjoint, Batch, Key, Loss, MetaLearner, Model, Params, PyTree


class WithRates(NamedTuple):
    """Params to start from, and the inner rate of each of their numbers."""

    params: Params
    rates: Params


def meta_sgd(
    model: Model,
    loss: Loss,
    num_steps: int,
    *,
    initial_rates: tuple[float, float] = (0.005, 0.1),
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """Meta-SGD: MAML by gradient descent whose rates are meta-learned too.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      num_steps: inner steps, all with the same rates.
      initial_rates: the least and the greatest of the rates to start from, which are
        drawn uniformly between the two.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default. First-order gradients reach the rates too.

    Returns:
      A meta-learner whose meta-parameters are `WithRates`, and whose adapted ones are
      model params as `model.calibrate` leaves them.

    Raises:
      ValueError: if the rates to start from are not positive or not in order.
    """
    low, high = initial_rates
    if not 0 < low <= high:
        raise ValueError(
            "meta_sgd: initial_rates must be positive, the least first: got "
            f"{initial_rates}."
        )
    adjoint = adjoint or adjoints.unroll()
    support_loss = losses.of_model(model, loss)

    def init(key: Key, inputs: PyTree) -> WithRates:
        params_key, rates_key = jax.random.split(key)
        params = model.init(params_key, inputs)
        leaves, structure = jax.tree.flatten(params)
        keys = structure.unflatten(jax.random.split(rates_key, len(leaves)))

        def draw(key, leaf):
            return jax.random.uniform(key, leaf.shape, leaf.dtype, low, high)

        return WithRates(params, jax.tree.map(draw, keys, params))

    def adapt(key: Key, meta: WithRates, support: Batch) -> Params:
        del key  # The inner loop is deterministic.

        def step(grads, params):
            del params
            return jax.tree.map(lambda rate, grad: -rate * grad, meta.rates, grads)

        solve = adjoint(support_loss, optax.stateless(step), num_steps)
        return model.calibrate(solve(meta.params, support), support.inputs)

    def predict(meta: WithRates, adapted: Params, inputs: PyTree) -> PyTree:
        del meta
        return model.apply(adapted, inputs)

    return MetaLearner(init, adapt, predict)
