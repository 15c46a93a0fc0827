"""Adapting a part of the network: the head alone (ANIL), or all but the head (BOIL).

    part[t+1] = part[t] - rate * d/d part  loss(part[t], rest, support)
    minimise over part[0], rest:  mean over tasks of loss(part[num_steps], rest, query)

Raghu, Raghu, Bengio, Vinyals 2020, "Rapid Learning or Feature Reuse? Towards
Understanding the Effectiveness of MAML", arXiv 1909.09157: the part is the head.
Oh, Yoo, Kim, Yun 2021, "BOIL: Towards Representation Change for Few-shot Learning",
arXiv 2008.08882: the part is everything else.
"""

from fnmatch import fnmatchcase

import optax

from metajax import adjoints, losses
from metajax.base import Adjoint, Batch, Key, Loss, MetaLearner, Model, Params, PyTree
from metajax.trees import Paths


def anil(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    head: str = "head/*",
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """ANIL: adapts the head alone; the features are the same for all tasks.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      optimizer: the inner optimizer, any optax transformation.
      num_steps: inner steps.
      head: the params of the last layer, as a shell pattern of their paths; "head/*"
        in the models here.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them.

    Raises:
      ValueError: when traced, if no param matches `head`, or as `maml`.
    """
    return _adapting(head, model, loss, optimizer, num_steps, adjoint)


def boil(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    head: str = "head/*",
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """BOIL: adapts everything but the head, so that the features must change.

    Args:
      model: as in `anil`, like the others.
      loss: the support loss.
      optimizer: the inner optimizer.
      num_steps: inner steps.
      head: the params that are left alone, as a shell pattern of their paths.
      adjoint: how the inner loop is differentiated.

    Returns:
      A meta-learner as that of `anil`.

    Raises:
      ValueError: when traced, if all params match `head`, or as `maml`.

    Note:
      The paper gives a rate of 0 to the head in the inner loop, which is the same.
    """

    def is_body(path: str) -> bool:
        return not fnmatchcase(path, head)

    return _adapting(is_body, model, loss, optimizer, num_steps, adjoint)


def _adapting(
    part: Paths,
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    adjoint: Adjoint | None,
) -> MetaLearner:
    adjoint = adjoints.only(part, adjoint or adjoints.unroll())
    solve = adjoint(losses.of_model(model, loss), optimizer, num_steps)

    def adapt(key: Key, meta: Params, support: Batch) -> Params:
        del key  # The inner loop is deterministic.
        return model.calibrate(solve(meta, support), support.inputs)

    def predict(meta: Params, adapted: Params, inputs: PyTree) -> PyTree:
        del meta
        return model.apply(adapted, inputs)

    return MetaLearner(model.init, adapt, predict)
