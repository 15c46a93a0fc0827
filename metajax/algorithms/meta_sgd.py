"""Meta-SGD: an initialisation, and the rates of the inner loop, learned together.

    adapted = params - rates * grad loss(params, support)     (num_steps times)
    minimise over params, rates:  mean over tasks of loss(adapted, query)

with an elementwise product: rates give the direction of a step as well as its length,
and may become negative.

Li, Zhou, Chen, Li 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
arXiv 1707.09835, algorithm 1.
"""

from typing import Literal, NamedTuple, get_args

import jax

from metajax import adjoints, losses
from metajax.base import Adjoint, Batch, Key, Loss, MetaLearner, Model, Params, PyTree
from metajax.learners import adapting_params, descend

RatePer = Literal["parameter", "leaf", "model"]


class WithRates(NamedTuple):
    """Params to start from, and inner rates."""

    params: Params
    rates: PyTree


def meta_sgd(
    model: Model,
    loss: Loss,
    num_steps: int,
    *,
    initial_rates: tuple[float, float] = (0.005, 0.1),
    rate_per: RatePer = "parameter",
    per_step: bool = False,
    clip: float | None = None,
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """Meta-SGD: MAML by gradient descent whose rates are meta-learned too.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      num_steps: inner steps.
      initial_rates: the least and the greatest of the rates to start from, which are
        drawn uniformly between the two.
      rate_per: "parameter": a rate for each number, as in the paper; "leaf": one for
        each weight matrix, bias and so on; "model": one for all.
      per_step: whether each inner step has rates of its own. A learner of more steps
        than the meta-parameters were made with repeats the last rates.
      clip: the greatest size of each number of an inner gradient; None for no bound.
        Rates that are made for one step may be too large for further ones, with which
        tasks diverge.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default. First-order gradients reach the rates too.

    Returns:
      A meta-learner whose meta-parameters are `WithRates`, and whose adapted ones are
      model params as `model.calibrate` leaves them.

    Raises:
      ValueError: if the rates to start from are not positive or not in order, or
        `rate_per` is none of those.
    """
    low, high = initial_rates
    if not 0 < low <= high:
        raise ValueError(
            "meta_sgd: initial_rates must be positive, the least first: got "
            f"{initial_rates}."
        )
    if rate_per not in get_args(RatePer):
        raise ValueError(
            f"meta_sgd: unknown rate_per {rate_per!r}: choose one of "
            f"{', '.join(get_args(RatePer))}."
        )
    adjoint = adjoint or adjoints.unroll()
    support_loss = losses.of_model(model, loss)

    def init(key: Key, inputs: PyTree) -> WithRates:
        params_key, rates_key = jax.random.split(key)
        params = model.init(params_key, inputs)
        # What has a rate, or a rate for each of its numbers.
        rated = jax.tree.leaves(params)[0] if rate_per == "model" else params
        leaves, structure = jax.tree.flatten(rated)
        keys = structure.unflatten(jax.random.split(rates_key, len(leaves)))

        def draw(key, leaf):
            shape = leaf.shape if rate_per == "parameter" else ()
            shape = (max(num_steps, 1), *shape) if per_step else shape
            return jax.random.uniform(key, shape, leaf.dtype, low, high)

        return WithRates(params, jax.tree.map(draw, keys, rated))

    def adapt(key: Key, meta: WithRates, support: Batch) -> Params:
        del key  # The inner loop is deterministic.
        step = descend(meta.rates, per_step=per_step, clip=clip)
        return adjoint(support_loss, step, num_steps)(meta.params, support)

    return adapting_params(model, adapt, init)
