"""WarpGrad: layers between the layers, which bend every inner gradient and never adapt.

    task[k+1] = task[k] - rate * d/d task  loss(task[k], warp, support)
    minimise over warp, task[0]:
        mean over tasks and k of  loss(task[k] - rate * d/d task loss(...), warp, query)

where each task[k] is taken as given: the derivative reaches the warp layers through one
step at a time, so that nothing of a longer inner loop is kept, and task[0] at first order.

Flennerhag, Rusu, Pascanu, Visin, Yin, Hadsell 2020, "Meta-Learning with Warped Gradient
Descent", arXiv 1909.00025, section 3 and algorithm 1.
"""

import jax
import optax

from metajax import adjoints, learners, losses, trees
from metajax.base import Batch, Key, Loss, MetaLearner, Model, Params
from metajax.learners import adapting_params
from metajax.trees import Paths


def warpgrad(
    model: Model,
    loss: Loss,
    num_steps: int,
    *,
    rate: float,
    clip: float | None = None,
    warp: Paths = "Warp_*",
    every_step: bool = False,
) -> MetaLearner:
    """WarpGrad: gradient descent of the task layers, between meta-learned warp layers.

    Args:
      model: the model whose params are meta-learned, such as `mlp(..., warp=True)` or
        `conv4(..., warp=True)`.
      loss: the support loss.
      num_steps: inner steps.
      rate: the inner rate.
      clip: the greatest size of each number of an inner gradient; None for no bound.
      warp: the params of the warp layers, by their paths.
      every_step: whether predictions are those after every step, `[steps, examples,
        ...]`, as training needs them (`objectives.multi_step_loss` with weights of
        1 / num_steps), or after the last one.

    Returns:
      A meta-learner whose meta-parameters are model params, and whose adapted ones are
      model params as `model.calibrate` leaves them, with an axis of steps in front if
      `every_step`.

    Raises:
      ValueError: if the rate is not positive, or `every_step` has no step; when traced, if
        no param matches `warp`.

    Note:
      The paper learns task[0] by another method beside it, such as MAML; here it has the
      first-order gradient of the same loss.
    """
    if not rate > 0:
        raise ValueError(f"warpgrad: rate must be positive: got {rate}.")
    if every_step and not num_steps:
        raise ValueError("warpgrad: every_step needs an inner step.")
    inner_loss = losses.of_model(model, loss)

    def loss_of_task(task: Params, args: tuple[Params, Batch]) -> jax.Array:
        warp_params, support = args
        return inner_loss(trees.merge(task, warp_params), support)

    optimizer = learners.descend(rate, clip=clip)
    descend = adjoints.unroll(last=0)(loss_of_task, optimizer, num_steps)
    step = adjoints.unroll()(loss_of_task, optimizer, 1)

    def adapt(key: Key, meta: Params, support: Batch) -> Params:
        del key  # The inner loop is deterministic.
        warp_params, task = trees.split(meta, warp)
        args = warp_params, support
        if not every_step:
            return trees.merge(descend(task, args), warp_params)

        def after_step(task: Params) -> Params:
            given = jax.lax.stop_gradient(task)
            path = optax.tree.sub(task, given)  # Zeros, with the gradient to task[0].
            return trees.merge(optax.tree.add(step(given, args), path), warp_params)

        iterates = descend(task, args, iterates=True)
        return jax.vmap(after_step)(jax.tree.map(lambda x: x[:-1], iterates))

    return adapting_params(model, adapt, every_step=every_step)
