"""How far probabilities can be believed: Brier score, calibration error, temperature."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax import contracts
from metajax.base import without_padding
from metajax.losses import masked_mean

_BINS = 15
# Every 3%, from sharpening by 20 to flattening by 20.
TEMPERATURES = np.geomspace(0.05, 20, 201).astype(np.float32)


def brier(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """The Brier score of a softmax.

        mean over examples of sum over c of (softmax(outputs)[c] - [targets = c])**2

    Args:
      outputs: logits, `[examples, ways]`.
      targets: class labels, `[examples]`, integers.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The mean over real examples, a scalar from 0 to 2.

    Raises:
      ValueError: as `losses.cross_entropy`.

    Source:
      Brier 1950, for several classes.

    Example:
      >>> float(brier(jnp.zeros((3, 2)), jnp.array([0, 1, 1])))
      0.5
    """
    contracts.check_logits("brier", outputs, targets, mask)
    outputs, targets = without_padding((outputs, targets), mask)
    right = jax.nn.one_hot(targets, outputs.shape[-1])
    squares = jnp.square(jax.nn.softmax(outputs) - right)
    return masked_mean(jnp.sum(squares, axis=-1), mask)


def reliability(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """What a reliability diagram is made of: sums of examples by confidence.

    The confidence of a prediction is the probability of the most probable class; bins
    are of equal width from 0 to 1.

    Args:
      outputs: logits, `[examples, ways]`.
      targets: class labels, `[examples]`, integers.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      Examples, sums of their confidences, and right ones among them, `[3, bins]`, to be
      added up over tasks.

    Raises:
      ValueError: as `losses.cross_entropy`.
    """
    contracts.check_logits("reliability", outputs, targets, mask)
    outputs, targets = without_padding((outputs, targets), mask)
    confidence = jnp.max(jax.nn.softmax(outputs), axis=-1)
    right = jnp.argmax(outputs, axis=-1) == targets
    place = jnp.clip((confidence * _BINS).astype(jnp.int32), 0, _BINS - 1)
    within = jax.nn.one_hot(place, _BINS)
    if mask is not None:
        within = within * mask[:, None]
    each = jnp.stack([jnp.ones_like(confidence), confidence, right])
    return jnp.sum(each[:, :, None] * within[None], axis=1)


def calibration_error(sums: np.ndarray) -> float:
    """The expected calibration error.

        sum over bins of |right - confidences| / sum over bins of examples

    Args:
      sums: those of `reliability` over all tasks, `[3, bins]`.

    Returns:
      The mean distance of accuracy from confidence, from 0 to 1; NaN without examples.

    Source:
      Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599), equation 3, 15 bins.

    Example:
      >>> sums = np.array([[2.0, 8.0], [1.2, 7.2], [1.0, 8.0]])
      >>> round(calibration_error(sums), 6)
      0.1
    """
    examples, confidences, right = np.asarray(sums, np.float64)
    if not examples.sum() or not np.isfinite(sums).all():
        return float("nan")
    return float(np.abs(right - confidences).sum() / examples.sum())


def by_temperature(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """The cross-entropy at each of `TEMPERATURES`, `[temperatures]`.

    Args:
      outputs: logits, `[examples, ways]`.
      targets: class labels, `[examples]`, integers.
      mask: True for real examples, `[examples]`; None if all are.
    """
    contracts.check_logits("by_temperature", outputs, targets, mask)
    outputs, targets = without_padding((outputs, targets), mask)

    def loss(temperature):
        log_probabilities = jax.nn.log_softmax(outputs / temperature)
        picked = jnp.take_along_axis(log_probabilities, targets[:, None], axis=-1)
        return masked_mean(-picked[:, 0], mask)

    return jax.lax.map(loss, jnp.asarray(TEMPERATURES))


def best_temperature(losses: np.ndarray) -> float:
    """The temperature at which a mean cross-entropy is least.

    Args:
      losses: of tasks, as `by_temperature` has them, `[tasks, temperatures]`.

    Returns:
      One of `TEMPERATURES`.

    Raises:
      ValueError: if no mean is finite.

    Source:
      Guo et al. 2017 (arXiv 1706.04599), section 4.2; one number, so that a grid of them
      is searched in one pass over the tasks.
    """
    means = np.mean(np.asarray(losses, np.float64), axis=0)
    if not np.isfinite(means).any():
        raise ValueError("No temperature gives a finite loss on the validation tasks.")
    return float(TEMPERATURES[np.nanargmin(means)])
