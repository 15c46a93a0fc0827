"""What predictions cost, averaged over the real examples of one task."""

import jax
import jax.numpy as jnp
import optax

from metajax.base import Batch, InnerLoss, Loss, Model, Params


def masked_mean(values: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Averages over the examples that are real.

    Args:
      values: one value an example, `[examples]`.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The mean, a scalar; 0 where no example is real.
    """
    if mask is None:
        return jnp.mean(values)
    total = jnp.sum(jnp.where(mask, values, 0))
    return total / jnp.maximum(jnp.sum(mask), 1)


def of_model(model: Model, loss: Loss) -> InnerLoss:
    """The loss of a model on a batch, as what an inner loop descends.

    Args:
      model: the model.
      loss: the cost of its outputs.

    Returns:
      `(params, batch) -> scalar`.
    """

    def batch_loss(params: Params, batch: Batch) -> jax.Array:
        outputs = model.apply(params, batch.shown)
        return loss(outputs, batch.targets, batch.mask)

    return batch_loss


def cross_entropy(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of a softmax, `-log softmax(outputs)[targets]`.

    Args:
      outputs: logits, `[examples, ways]`.
      targets: class labels, `[examples]`, integers.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The mean over real examples in nats, a scalar.

    Example:
      >>> float(cross_entropy(jnp.zeros((3, 5)), jnp.array([0, 1, 4])))
      1.6094379425048828
    """
    return masked_mean(
        optax.softmax_cross_entropy_with_integer_labels(outputs, targets), mask
    )


def squared_error(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Mean squared error, `mean((outputs - targets)**2)`.

    Args:
      outputs: predictions, `[examples, ...]`.
      targets: true values, of the same shape.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The mean over real examples and their dimensions, a scalar.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"squared_error: outputs {outputs.shape} and targets {targets.shape} differ."
        )
    errors = jnp.square(outputs - targets)
    return masked_mean(errors.reshape(len(errors), -1).mean(axis=1), mask)


def gaussian_nll(
    outputs: tuple[jax.Array, jax.Array],
    targets: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Negative log-likelihood of a Gaussian, `-log N(targets; mean, std)`.

    Args:
      outputs: `(mean, std)`, each `[examples, ...]`; std positive.
      targets: true values, of the same shape.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The mean over real examples and their dimensions in nats, a scalar.
    """
    mean, std = outputs
    values = -jax.scipy.stats.norm.logpdf(targets, mean, std)
    return masked_mean(values.reshape(len(values), -1).mean(axis=1), mask)


def accuracy(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """The share of examples whose largest logit is the right one.

    Args:
      outputs: logits, `[examples, ways]`.
      targets: class labels, `[examples]`, integers.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The share among real examples, a scalar from 0 to 1.
    """
    right = jnp.argmax(outputs, axis=-1) == targets
    return masked_mean(right.astype(jnp.float32), mask)
