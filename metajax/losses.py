"""What predictions cost, averaged over the real examples of one task."""

import jax
import jax.numpy as jnp
import optax

from metajax import contracts
from metajax.base import Batch, InnerLoss, Loss, Model, Params, without_padding


def masked_mean(values: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Averages over the examples that are real.

    Args:
      values: one value an example, `[examples]`.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The mean, a scalar; 0 where no example is real.

    Raises:
      ValueError: if there is not one value and one boolean an example.
    """
    if values.ndim != 1:
        raise ValueError(
            "masked_mean needs one value an example, [examples]: got "
            f"{contracts.described(values)}."
        )
    contracts.check_mask("masked_mean: mask", mask, len(values))
    if mask is None:
        return jnp.mean(values)
    total = jnp.sum(jnp.where(mask, values, 0))
    return total / jnp.maximum(jnp.sum(mask), 1).astype(total.dtype)


def of_model(model: Model, loss: Loss) -> InnerLoss:
    """The loss of a model on a batch, as what an inner loop descends.

    Args:
      model: the model.
      loss: the cost of its outputs.

    Returns:
      `(params, batch) -> scalar`.

    Raises:
      ValueError: if the model is no `Model`, or the loss takes no mask.
    """
    contracts.check_models(model)
    contracts.check_losses(loss)

    def batch_loss(params: Params, batch: Batch) -> jax.Array:
        outputs = model.apply(params, batch.shown)
        return loss(outputs, batch.targets, batch.mask)

    return batch_loss


def cross_entropy(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of a softmax, `-log softmax(outputs)[targets]`.

    Args:
      outputs: logits, `[examples, ..., ways]`.
      targets: class labels, `[examples, ...]`, integers.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The mean over real examples in nats, a scalar; NaN if one has a label that no class
      has.

    Raises:
      ValueError: if shapes or dtypes are not those, or labels that are known out of range.

    Example:
      >>> float(cross_entropy(jnp.zeros((3, 5)), jnp.array([0, 1, 4])))
      1.6094379425048828
    """
    contracts.check_logits("cross_entropy", outputs, targets, mask)
    outputs, targets = without_padding((outputs, targets), mask)
    values = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    values = jnp.where(_has_class(outputs, targets), values, jnp.nan)
    return masked_mean(_each(values), mask)


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

    Raises:
      ValueError: if shapes are not those.
    """
    contracts.check_values("squared_error", (outputs,), targets, mask)
    outputs, targets = without_padding((outputs, targets), mask)
    return masked_mean(_each(jnp.square(outputs - targets)), mask)


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

    Raises:
      ValueError: if shapes are not those.
    """
    contracts.check_values("gaussian_nll", outputs, targets, mask)
    mean, targets = without_padding((outputs[0], targets), mask)
    std = without_padding(outputs[1], mask, fill=1)
    values = -jax.scipy.stats.norm.logpdf(targets, mean, std)
    return masked_mean(_each(values), mask)


def accuracy(
    outputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """The share of examples whose largest logit is the right one.

    Args:
      outputs: logits, `[examples, ..., ways]`.
      targets: class labels, `[examples, ...]`, integers.
      mask: True for real examples, `[examples]`; None if all are.

    Returns:
      The share among real examples, a scalar from 0 to 1; NaN if one of them has a logit
      that is not finite, or a label that no class has: a task that diverged must not look
      like chance.

    Raises:
      ValueError: as `cross_entropy`.
    """
    contracts.check_logits("accuracy", outputs, targets, mask)
    outputs, targets = without_padding((outputs, targets), mask)
    right = (jnp.argmax(outputs, axis=-1) == targets).astype(jnp.float32)
    judged = jnp.isfinite(outputs).all(axis=-1) & _has_class(outputs, targets)
    return masked_mean(_each(jnp.where(judged, right, jnp.nan)), mask)


def _has_class(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether each label is that of a class; -1 would be taken for the last one's."""
    return (labels >= 0) & (labels < outputs.shape[-1])


def _each(values: jax.Array) -> jax.Array:
    """The mean of each example, `[examples]`."""
    return values.reshape(len(values), -1).mean(axis=1)
