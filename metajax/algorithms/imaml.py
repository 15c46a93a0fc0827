"""Implicit MAML: adapt until at rest near the initialisation, differentiate the rest.

    adapted = argmin_w  loss(w, support) + regularization / 2 * |w - params|^2
    d adapted / d params = (I + H / regularization)^-1,   H the Hessian of loss at adapted
    minimise over params:  mean over tasks of loss(adapted, query)

Rajeswaran, Finn, Kakade, Levine 2019, "Meta-Learning with Implicit Gradients",
arXiv 1909.04630, section 3 and algorithms 1 and 2.
"""

import optax

from metajax import adjoints, losses
from metajax.base import Adjoint, Batch, Key, Loss, MetaLearner, Model, Params
from metajax.learners import adapting_params


def imaml(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    regularization: float = 2.0,
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """iMAML: MAML with a proximal support loss, at a cost that steps do not raise.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation. It should come close to
        the minimum in `num_steps`; the metric `inner_gradient` says how close.
      num_steps: inner steps.
      regularization: weight of the proximal term, positive: lambda in the paper.
      adjoint: how the inner loop is differentiated; `adjoints.implicit(cg(5))`, as in
        the paper, by default. With `adjoints.unroll()` the same inner problem is
        differentiated step by step.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them.

    Raises:
      ValueError: if the regularization is not positive.

    Note:
      The authors' code solves (1 + damping) v + H v / (regularization + 10), with
      damping 1, in place of the system above, descends the support loss alone but for a
      last step, and tests without the proximal term; here the equations are the paper's
      throughout. Its damping is that of `implicit` divided by the regularization.
    """
    if not regularization > 0:
        raise ValueError(
            "imaml: regularization must be positive, since it ties the adapted params to "
            f"the initialisation that is learned: got {regularization}."
        )
    support_loss = losses.of_model(model, loss)

    def proximal_loss(params: Params, meta_and_support: tuple[Params, Batch]):
        meta, support = meta_and_support
        distance = optax.tree.norm(optax.tree.sub(params, meta), squared=True)
        return support_loss(params, support) + regularization / 2 * distance

    adjoint = adjoint or adjoints.implicit(adjoints.cg(5))
    solve = adjoint(proximal_loss, optimizer, num_steps)

    def adapt(key: Key, meta: Params, support: Batch) -> Params:
        del key  # The inner loop is deterministic.
        return solve(meta, (meta, support))

    return adapting_params(model, adapt)
