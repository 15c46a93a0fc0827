"""Neural processes: from a set of points to a predictive distribution at any input.

    values[i] = encode([x_i, y_i])                     over the support points
    r = mean of values                                                 (CNP)
    r = sum_i softmax_i(keys(x) . keys(x_i) / sqrt(depth)) values[i]   (attentive)
    mean, std = decode([x, r])                         at a query input x

Garnelo et al. 2018, "Conditional Neural Processes", arXiv 1807.01613, section 2; Kim et al.
2019, "Attentive Neural Processes", arXiv 1901.05761, section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts, heads
from metajax.base import (
    Batch,
    Key,
    Masked,
    MetaLearner,
    Model,
    Params,
    PyTree,
    without_padding,
)
from metajax.learners import side_by_side


class NeuralProcess(NamedTuple):
    """What is meta-learned."""

    encoder: Params
    decoder: Params
    keys: Params | None = None  # Of the attentive form.


class Points(NamedTuple):
    """What the attentive form knows of a task: its support points."""

    keys: jax.Array  # [examples, depth]
    values: jax.Array  # [examples, features]
    mask: jax.Array  # [examples], bool


def cnp(
    encoder: Model, decoder: Model, *, outputs: int = 1, min_std: float = 0.1
) -> MetaLearner:
    """CNP: the mean of encoded support points is all that is known of a task.

    Args:
      encoder: from support inputs and targets side by side, `[examples, inputs +
        outputs]`, to values `[examples, features]`, such as `mlp([64, 64], 64)`.
      decoder: from query inputs and what is known, side by side, `[queries, inputs +
        features]`, to `[queries, 2 * outputs]`, such as `mlp([64, 64], 2)`.
      outputs: dimensions of the targets, which are real.
      min_std: the least standard deviation that can be predicted.

    Returns:
      A meta-learner whose meta-parameters are `NeuralProcess`, and whose adapted ones are
      the mean, `[features]`, 0 if there is no example. Its outputs are `(mean, std)`,
      `[queries, outputs]` each, as `losses.gaussian_nll` takes them.

    Raises:
      ValueError: if `min_std` is not between 0 and 1.

    Example:
      >>> learner = cnp(  # doctest: +SKIP
      ...     models.mlp([64, 64], 64), models.mlp([64, 64], 2)
      ... )

    Note:
      `std = min_std + (1 - min_std) softplus(raw)`, with the 0.1 of the authors' released
      notebook, fits targets of variance near 1; targets with less noise want a lower
      `min_std`. Predictions at several inputs are independent: there is no latent path.
    """

    def adapt(key: Key, meta: NeuralProcess, support: Batch) -> jax.Array:
        del key  # Nothing is random.
        values = _encode(encoder, meta, support)
        every = jnp.zeros(len(values), int)
        real = heads.memberships(every, 1, support.mask, values.dtype)
        return heads.class_means(values, real)[0]

    def known(meta: NeuralProcess, adapted: jax.Array, inputs: jax.Array) -> jax.Array:
        del meta
        return jnp.broadcast_to(adapted[None], (len(inputs), len(adapted)))

    return _neural_process(encoder, decoder, None, outputs, min_std, adapt, known)


def anp(
    encoder: Model,
    decoder: Model,
    keys: Model,
    *,
    outputs: int = 1,
    min_std: float = 0.1,
) -> MetaLearner:
    """Attentive neural process: each query attends to the support points it is near.

    Args:
      encoder: as in `cnp`.
      decoder: as in `cnp`.
      keys: from inputs, of support and queries alike, to what is compared,
        `[examples, depth]`, such as `mlp([64], 32)`.
      outputs: as in `cnp`.
      min_std: as in `cnp`.

    Returns:
      As `cnp`, but that the adapted parameters are `Points`.

    Raises:
      ValueError: if `min_std` is not between 0 and 1.

    Note:
      This is the deterministic path, with one head of dot-product attention; the paper
      adds a latent path, self-attention among support points, and more heads.
    """

    def adapt(key: Key, meta: NeuralProcess, support: Batch) -> Points:
        del key  # Nothing is random.
        mask = support.mask
        mask = jnp.ones(len(support.targets), bool) if mask is None else mask
        values = jnp.where(mask[:, None], _encode(encoder, meta, support), 0)
        compared = keys.apply(meta.keys, without_padding(support.inputs, mask))
        return Points(compared, values, mask)

    def known(meta: NeuralProcess, adapted: Points, inputs: jax.Array) -> jax.Array:
        asked = keys.apply(meta.keys, inputs)
        scores = asked @ adapted.keys.T * asked.shape[1] ** -0.5
        least = jnp.finfo(scores.dtype).min
        weights = jax.nn.softmax(jnp.where(adapted.mask[None], scores, least))
        return weights @ adapted.values

    return _neural_process(encoder, decoder, keys, outputs, min_std, adapt, known)


def _neural_process(encoder, decoder, keys, outputs, min_std, adapt, known):
    """Both forms, by how they adapt and what they know at each query input."""
    contracts.check_models(encoder, decoder, *([] if keys is None else [keys]))
    if not 0 < min_std < 1:
        raise ValueError(
            f"A neural process needs a min_std between 0 and 1: got {min_std}."
        )

    def init(key: Key, inputs: jax.Array) -> NeuralProcess:
        *model_keys, keys_key = jax.random.split(key, 3)
        pairs = side_by_side(inputs, jnp.zeros((len(inputs), outputs), inputs.dtype))
        encoding = encoder.init(model_keys[0], pairs)
        asked = side_by_side(inputs, encoder.apply(encoding, pairs))
        decoding = decoder.init(model_keys[1], asked)
        return NeuralProcess(
            encoding, decoding, None if keys is None else keys.init(keys_key, inputs)
        )

    def predict(meta: NeuralProcess, adapted: PyTree, inputs: PyTree):
        inputs = inputs.inputs if isinstance(inputs, Masked) else inputs
        asked = side_by_side(inputs, known(meta, adapted, inputs))
        mean, raw = jnp.split(decoder.apply(meta.decoder, asked), 2, axis=1)
        return mean, min_std + (1 - min_std) * jax.nn.softplus(raw)

    return MetaLearner(init, adapt, predict)


def _encode(encoder: Model, meta: NeuralProcess, support: Batch) -> jax.Array:
    shown = without_padding((support.inputs, support.targets), support.mask)
    pairs = side_by_side(*shown)
    return encoder.apply(meta.encoder, pairs)
