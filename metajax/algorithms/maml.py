"""Model-agnostic meta-learning: an initialisation from which few gradient steps suffice.

    adapted = params - rate * grad loss(params, support)      (num_steps times)
    minimise over params:  mean over tasks of loss(adapted, query)

Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", arXiv 1703.03400, algorithm 2.
"""

import optax

from metajax import adjoints, losses
from metajax.base import Adjoint, Loss, MetaLearner, Model
from metajax.learners import adapting_params


def maml(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """MAML: adapts all params by gradient descent on the support loss.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation.
      num_steps: inner steps.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them.

    Raises:
      ValueError: when traced, if the optimizer's update has no finite derivative at a
        zero gradient (Adam without eps_root, for example).

    Note:
      The loss is a mean over examples. Finn's code descends a sum over classes divided
      by shots, so a rate there is `ways` times that rate here.
    """
    support_loss = losses.of_model(model, loss)
    solve = (adjoint or adjoints.unroll())(support_loss, optimizer, num_steps)

    return adapting_params(model, lambda key, meta, support: solve(meta, support))


def fomaml(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> MetaLearner:
    """First-order MAML: the inner gradients are taken for constants.

    The same as `maml(..., adjoint=adjoints.unroll(last=0))`; see `maml` for the
    arguments. Source: Finn et al. 2017, section 5.2.
    """
    return maml(model, loss, optimizer, num_steps, adjoint=adjoints.unroll(last=0))
