"""Almost no inner loop: the head alone adapts, the features are the same for all tasks.

    head[t+1] = head[t] - rate * d/d head  loss(head[t], body, support)
    minimise over head[0], body:  mean over tasks of loss(head[num_steps], body, query)

Raghu, Raghu, Bengio, Vinyals 2020, "Rapid Learning or Feature Reuse? Towards
Understanding the Effectiveness of MAML", arXiv 1909.09157, section 4.
"""

import optax

from metajax import adjoints, losses
from metajax.base import Adjoint, Loss, MetaLearner, Model
from metajax.learners import adapting_params
from metajax.trees import Paths


def anil(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    head: Paths = "head/*",
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """ANIL: adapts the last layer alone.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation.
      num_steps: inner steps.
      head: the params of the last layer, by their paths; "head/*" in the models here.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them.

    Raises:
      ValueError: when traced, if no param matches `head`, or as `maml`.
    """
    adjoint = adjoints.only(head, adjoint or adjoints.unroll())
    solve = adjoint(losses.of_model(model, loss), optimizer, num_steps)

    return adapting_params(model, lambda key, meta, support: solve(meta, support))
