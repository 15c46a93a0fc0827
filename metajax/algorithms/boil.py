"""Body only in the inner loop: all but the head adapts, so that the features must change.

    body[t+1] = body[t] - rate * d/d body  loss(head, body[t], support)
    minimise over head, body[0]:  mean over tasks of loss(head, body[num_steps], query)

Oh, Yoo, Kim, Yun 2021, "BOIL: Towards Representation Change for Few-shot Learning",
arXiv 2008.08882, section 3.
"""

from fnmatch import fnmatchcase

import optax

from metajax import adjoints, losses
from metajax.base import Adjoint, Batch, Key, Loss, MetaLearner, Model, Params
from metajax.learners import adapting_params


def boil(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    head: str = "head/*",
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """BOIL: adapts everything but the last layer.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation.
      num_steps: inner steps.
      head: the params that are left alone, as a shell pattern of their paths.
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
        return not fnmatchcase(path, head)

    adjoint = adjoints.only(is_body, adjoint or adjoints.unroll())
    solve = adjoint(losses.of_model(model, loss), optimizer, num_steps)

    def adapt(key: Key, meta: Params, support: Batch) -> Params:
        del key  # The inner loop is deterministic.
        return solve(meta, support)

    return adapting_params(model, adapt)
