"""MAML++: what steadies MAML, one switch each.

    params[t+1] = params[t] - rates[t] * grad loss(params[t], normalization[t], support)
    minimise over params[0], rates, normalization:
        mean over tasks of  sum_t weights[t] * loss(params[t], normalization[t-1], query)

with a rate for each weight matrix, bias and so on at each step (LSLR), and scales and
shifts of the normalisation for each step (BNWB), which are not adapted. The weights
(MSL) are those of `objectives.multi_step_loss`; first order first (DA) is
`estimators.before`, and the cosine schedule (CA) optax's.

Antoniou, Edwards, Storkey 2019, "How to Train Your MAML", arXiv 1810.09502, section 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import adjoints, losses, trees
from metajax.base import Adjoint, Batch, Key, Loss, MetaLearner, Model, Params, PyTree
from metajax.learners import adapting_params, at_step, descend
from metajax.trees import Paths


class Stepwise(NamedTuple):
    """Params to start from, and what each inner step has of its own."""

    params: Params  # Without those of the normalisation, where steps have their own.
    rates: PyTree  # A scalar for each of the params, [steps]; None if not learned.
    normalization: Params  # The other params, leaves [steps, ...]; None if shared.


def maml_plus_plus(
    model: Model,
    loss: Loss,
    num_steps: int,
    *,
    rate: float,
    clip: float | None = None,
    learn_rates: bool = True,
    normalization: Paths | None = None,
    every_step: bool = False,
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """MAML++: rates, and normalisation, of each inner step's own.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      num_steps: inner steps. A learner of more steps than the meta-parameters were made
        with repeats what the last of those had.
      rate: the inner rate, or where learned ones start.
      clip: the greatest size of each number of an inner gradient; None for no bound.
      learn_rates: whether rates are learned, per leaf and step.
      normalization: which params each step has of its own and leaves as they are, such
        as "Normalize_*/*" for `conv4`; None for none.
      every_step: whether predictions are those after every step, `[steps, examples,
        ...]`, for `objectives.multi_step_loss`, or after the last one.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default.

    Returns:
      A meta-learner whose meta-parameters are `Stepwise`, and whose adapted ones are
      model params as `model.calibrate` leaves them, with an axis of steps in front if
      `every_step`.

    Raises:
      ValueError: if the rate is not positive; when traced, if no param matches
        `normalization`.

    Note:
      The authors' code also keeps running statistics of each step, but its forward pass
      never uses them.
    """
    if not rate > 0:
        raise ValueError(f"maml_plus_plus: rate must be positive: got {rate}.")
    if every_step and not num_steps:
        raise ValueError("maml_plus_plus: every_step needs an inner step.")
    support_loss = losses.of_model(model, loss)
    made_with, steps = max(num_steps, 1), jnp.arange(num_steps)

    def init(key: Key, inputs: PyTree) -> Stepwise:
        params, own = model.init(key, inputs), None
        if normalization is not None:
            own, params = trees.split(params, normalization)
            own = jax.tree.map(lambda x: jnp.stack([x] * made_with), own)
        rates = None
        if learn_rates:
            rates = jax.tree.map(lambda x: jnp.full(made_with, rate, x.dtype), params)
        return Stepwise(params, rates, own)

    def stepwise_loss(params: Params, support: Batch, own: Params) -> jax.Array:
        return support_loss(trees.merge(params, own), support)

    def adapt(key: Key, meta: Stepwise, support: Batch) -> Params:
        del key  # The inner loop is deterministic.
        learned = meta.rates is not None
        rates = meta.rates if learned else rate
        optimizer = descend(rates, per_step=learned, clip=clip)
        build = adjoint or adjoints.unroll()
        if meta.normalization is None:
            solve = build(support_loss, optimizer, num_steps)
            iterates = solve(meta.params, support, iterates=True)
        else:
            own = jax.vmap(at_step, (None, 0))(meta.normalization, steps)
            solve = build(stepwise_loss, optimizer, num_steps)
            iterates = solve(meta.params, support, own, iterates=True)
            # Queries after a step meet the normalisation that the step was taken with.
            met = jnp.maximum(jnp.arange(-1, num_steps), 0)
            own = jax.vmap(at_step, (None, 0))(meta.normalization, met)
            iterates = trees.merge(iterates, own)
        return jax.tree.map(lambda x: x[1:] if every_step else x[-1], iterates)

    return adapting_params(model, adapt, init, every_step=every_step)
