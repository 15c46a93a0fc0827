"""Learning in context: a sequence model reads the support set, and that is adaptation.

    memory = read([(embed(x), y) for x, y in support])
    predict(memory, x) = answer(memory, embed(x))

Learning happens in activations: no parameter changes, and there is no inner loop. What
reads may be a transformer (Garg, Tsipras, Liang, Valiant 2022, "What Can Transformers Learn
In-Context?", arXiv 2208.01066; Kirsch, Harrison, Sohl-Dickstein, Metz 2022,
"General-Purpose In-Context Learning by Meta-Learning Transformers", arXiv 2212.04458), or
convolutions in time and attention (SNAIL: Mishra, Rohaninejad, Chen, Abbeel 2018, "A Simple
Neural Attentive Meta-Learner", arXiv 1707.03141).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts
from metajax.base import (
    Batch,
    Calibrated,
    Key,
    Loss,
    MetaLearner,
    MetaParams,
    Model,
    Objective,
    Params,
    PyTree,
    Task,
)


class Reading(NamedTuple):
    """What is meta-learned: an embedding of inputs, and what reads them with targets."""

    params: Params
    reader: Params


class Read(NamedTuple):
    """What a task has taught."""

    params: Params  # Of the embedding, as `model.calibrate` leaves them.
    memory: PyTree  # What the reader keeps of the support set.


def in_context(model: Model, reader: Model) -> MetaLearner:
    """In-context learning: `reader` reads the support set, and answers for queries.

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`, or
        `mlp([], None)` for the inputs as they are.
      reader: what learns: `models.in_context_transformer`, `models.snail`,
        `models.linear_attention`, or any that `models.from_reader` makes.

    Returns:
      A meta-learner whose meta-parameters are `Reading`, and whose adapted ones are
      `Read`. A prediction never depends on other queries. Whether the order of support
      examples matters is the reader's affair.

    Example:
      >>> reader = models.in_context_transformer(  # doctest: +SKIP
      ...     5, width=64, layers=4, heads=4
      ... )
      >>> learner = in_context(models.conv4(None), reader)  # doctest: +SKIP

    Note:
      Labels have learned embeddings, so that predictions for permuted labels are those
      of params permuted likewise; that labels mean nothing in themselves is learned from
      tasks that permute them.
    """
    contracts.check_models(model, reader)

    def init(key: Key, inputs: PyTree) -> Reading:
        model_key, reader_key = jax.random.split(key)
        params = model.init(model_key, inputs)
        return Reading(params, reader.init(reader_key, model.apply(params, inputs)))

    def adapt(key: Key, meta: Reading, support: Batch) -> Read:
        del key  # Nothing is random.
        read = reader.calibrate(meta.reader, _pairs(model, meta, support))
        return Read(model.calibrate(meta.params, support.shown), read.statistics)

    def predict(meta: Reading, adapted: Read, inputs: PyTree) -> PyTree:
        features = model.apply(adapted.params, inputs)
        return reader.apply(Calibrated(meta.reader, adapted.memory), features)

    return MetaLearner(init, adapt, predict)


def predict_sequence(
    model: Model, reader: Model
) -> Callable[[MetaParams, Batch], PyTree]:
    """Predictions along a sequence of examples, each from those before it.

    The first is made from nothing, the last from all others: the in-context curve, in
    one pass.

    Args:
      model: an embedding that treats each example alone: one that normalises by the batch
        would show an example those after it.
      reader: one that reads in order, such as the causal `models.in_context_transformer`.

    Returns:
      `(meta, sequence) -> outputs`, `[examples, ...]`; output k is the prediction of
      `in_context(model, reader)` with the first k examples as its support.
    """
    contracts.check_models(model, reader)

    def predict(meta: Reading, sequence: Batch) -> PyTree:
        return reader.apply(meta.reader, _pairs(model, meta, sequence))

    return predict


def sequence_loss(
    model: Model, reader: Model, loss: Loss, **metrics: Loss
) -> Objective:
    """The loss along a sequence, of each example after those before it.

        mean over k of loss(prediction for example k from examples 0 .. k-1, target k)

    The sequence is a task's support examples and then its query examples. One pass
    trains for all numbers of shots at once.

    Args:
      model: as in `predict_sequence`.
      reader: as in `predict_sequence`.
      loss: what is minimised.
      **metrics: further losses to report by name.

    Returns:
      An objective whose metrics are `loss` and those given.

    Note:
      Examples should come in random order. In tasks laid out class by class, as those of
      `FewShot`, places would tell labels.
    """
    predict = predict_sequence(model, reader)
    losses = {"loss": loss, **metrics}
    contracts.check_losses(*losses.values())

    def objective(key: Key, meta: Reading, task: Task):
        del key
        sequence = _in_a_row(task)
        outputs = predict(meta, sequence)
        contracts.check_outputs(outputs, sequence)
        values = {
            name: each(outputs, sequence.targets, sequence.mask)
            for name, each in losses.items()
        }
        return values["loss"], values

    return objective


def _pairs(model: Model, meta: Reading, batch: Batch) -> PyTree:
    """Features and targets, as readers take them."""
    features = model.apply(meta.params, batch.shown)
    return batch._replace(inputs=(features, batch.targets)).shown


def _in_a_row(task: Task) -> Batch:
    """The support examples of a task and, after them, its query examples."""
    batches = [
        batch._replace(mask=jnp.ones(len(batch.targets), bool))
        if batch.mask is None
        else batch
        for batch in task
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
