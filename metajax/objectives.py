"""What one task costs: from a meta-learner to an objective."""

from metajax.base import Key, Loss, MetaLearner, MetaParams, Objective, Task


def query_loss(learner: MetaLearner, loss: Loss, **metrics: Loss) -> Objective:
    """The loss on a task's query batch after adapting to its support batch.

        loss(predict(meta, adapt(key, meta, support), query.inputs), query.targets)

    Args:
      learner: the meta-learner.
      loss: what is minimised.
      **metrics: further losses to report by name, such as `accuracy=losses.accuracy`.

    Returns:
      An objective whose metrics are `loss` and those given.
    """
    losses = {"loss": loss, **metrics}

    def objective(key: Key, meta: MetaParams, task: Task):
        support, query = task
        adapted = learner.adapt(key, meta, support)
        outputs = learner.predict(meta, adapted, query.inputs)
        values = {
            name: measure(outputs, query.targets, query.mask)
            for name, measure in losses.items()
        }
        return values["loss"], values

    return objective
