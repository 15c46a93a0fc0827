"""Body only in the inner loop: all but the head adapts, so that the features must change.

    body[t+1] = body[t] - rate * d/d body  loss(head, body[t], support)
    minimise over head, body[0]:  mean over tasks of loss(head, body[num_steps], query)

Oh, Yoo, Kim, Yun 2021, "BOIL: Towards Representation Change for Few-shot Learning",
arXiv 2008.08882, section 3.
"""

import optax

from metajax import adjoints, losses, trees
from metajax.base import Adjoint, Loss, MetaLearner, Model
from metajax.learners import adapting_params
from metajax.trees import Paths


def boil(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    head: Paths = "head/*",
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """BOIL: adapts everything but the last layer.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation.
      num_steps: inner steps.
      head: the params that are left alone, by their paths.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them.

    Raises:
      ValueError: when traced, if all params match `head`, or as `maml`.

    Note:
      The paper gives a rate of 0 to the head in the inner loop, which is the same.
    """

    def is_body(path: str) -> bool:
        return not trees.matches(path, head)

    adjoint = adjoints.only(is_body, adjoint or adjoints.unroll())
    solve = adjoint(losses.of_model(model, loss), optimizer, num_steps)

    return adapting_params(model, lambda key, meta, support: solve(meta, support))
