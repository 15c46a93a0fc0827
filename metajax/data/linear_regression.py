"""Linear regression: tasks whose best predictions are known in closed form."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax.base import Batch, Key, Task
from metajax.data.few_shot import shown_first


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearRegression:
    """Draws tasks of regressing one linear function: a pure function of a key.

        targets = inputs @ weights + noise_std * noise

    Inputs, weights and noise are standard normal; the weights are a task's own.

    Attributes:
      dim: of the inputs.
      shots: support points.
      queries: query points.
      noise_std: standard deviation of the noise in all targets.

    Source:
      Garg et al. 2022 (arXiv 2208.01066), section 3.

    Note:
      Predicting 0 costs `dim`, plus the noise: the paper divides squared errors by it.
      After k examples without noise the best predictor, `least_squares`, costs
      `dim - k` on average, and nothing from `k = dim` on.

    Example:
      >>> task = LinearRegression(dim=5, shots=10, queries=3)(jax.random.key(0))
      >>> task.support.inputs.shape, task.query.targets.shape
      ((10, 5), (3, 1))
    """

    dim: int = dataclasses.field(metadata={"static": True})
    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    noise_std: float = dataclasses.field(default=0.0, metadata={"static": True})

    def __post_init__(self):
        if min(self.dim, self.shots, self.queries) < 1 or self.noise_std < 0:
            raise ValueError(
                "LinearRegression: dim, shots and queries must be at least 1, noise_std "
                f"at least 0: got {self.dim}, {self.shots}, {self.queries}, "
                f"{self.noise_std}."
            )

    def __call__(self, key: Key) -> Task:
        input_key, weight_key, noise_key = jax.random.split(key, 3)
        inputs = jax.random.normal(input_key, (self.shots + self.queries, self.dim))
        weights = jax.random.normal(weight_key, (self.dim, 1))
        noise = jax.random.normal(noise_key, (len(inputs), 1))
        return shown_first(
            Batch(inputs, inputs @ weights + self.noise_std * noise), self.shots
        )


def least_squares(
    support: Batch, inputs: jax.Array, regularization: float = 0.0
) -> jax.Array:
    """Predictions of least squares: what no learner on `LinearRegression` beats.

        weights = argmin |support.inputs weights - support.targets|^2
                  + regularization |weights|^2

    Args:
      support: points, `[examples, dim]`, with targets `[examples, 1]`; padding is left
        out.
      inputs: where to predict, `[points, dim]`.
      regularization: the variance of the noise, with which these are the posterior means;
        for 0 the shortest of all weights that fit best.

    Returns:
      `[points, 1]`.
    """
    points, targets, mask = support
    if mask is not None:
        points, targets = (jnp.where(mask[:, None], x, 0) for x in (points, targets))
    left, scales, right = jnp.linalg.svd(points, full_matrices=False)
    least = jnp.finfo(scales.dtype).eps * max(points.shape) * jnp.max(scales)
    safe = jnp.where(scales > least, scales, 1)
    inverse = jnp.where(scales > least, safe / (safe**2 + regularization), 0)
    return inputs @ (right.T @ (inverse[:, None] * (left.T @ targets)))
