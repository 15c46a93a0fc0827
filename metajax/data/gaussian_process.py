"""Regression on draws of a Gaussian process, whose posterior is the best predictor."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax.base import Batch, Key, Task
from metajax.data.few_shot import shown_first


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Draws tasks of regressing one random function: a pure function of a key.

        covariance(x, x') = exp(-(x - x')**2 / (2 length_scale**2))
        targets = function(inputs) + noise_std * noise

    Attributes:
      shots: support points.
      queries: query points.
      length_scale: how far apart values of the function are alike.
      noise_std: standard deviation of the noise in all targets, at least 0.01, which
        keeps Cholesky's method exact in float32.
      inputs: bounds of the uniform inputs.

    Source:
      Garnelo et al. 2018 (arXiv 1807.01613), section 4.1, with a fixed kernel.

    Example:
      >>> task = GaussianProcess(shots=10, queries=20)(jax.random.key(0))
      >>> task.support.inputs.shape, task.query.targets.shape
      ((10, 1), (20, 1))
    """

    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    length_scale: float = dataclasses.field(default=0.4, metadata={"static": True})
    noise_std: float = dataclasses.field(default=0.1, metadata={"static": True})
    inputs: tuple[float, float] = dataclasses.field(
        default=(-2.0, 2.0), metadata={"static": True}
    )

    def __post_init__(self):
        if min(self.shots, self.queries) < 1:
            raise ValueError(
                f"shots and queries must be at least 1: got {self.shots}, "
                f"{self.queries}."
            )
        if self.length_scale <= 0 or self.noise_std < 0.01:
            raise ValueError(
                "GaussianProcess: length_scale must be positive, noise_std at least 0.01: "
                f"got {self.length_scale}, {self.noise_std}."
            )

    def __call__(self, key: Key) -> Task:
        input_key, target_key = jax.random.split(key)
        low, high = self.inputs
        points = jax.random.uniform(
            input_key, (self.shots + self.queries, 1), minval=low, maxval=high
        )
        covariance = self._kernel(points, points) + self._noise(len(points))
        normal = jax.random.normal(target_key, (len(points), 1))
        return shown_first(
            Batch(points, jnp.linalg.cholesky(covariance) @ normal), self.shots
        )

    def posterior(
        self, support: Batch, inputs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What is known of targets after the support: no learner predicts better.

        Args:
          support: points, `[examples, 1]`, with targets `[examples, 1]`; padding is left
            out.
          inputs: where to predict, `[points, 1]`.

        Returns:
          Mean and standard deviation of a target at each input, noise included,
          `[points, 1]` both, as `losses.gaussian_nll` takes them.

        Source:
          Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning",
          algorithm 2.1.
        """
        points, targets, mask = support
        mask = jnp.ones(len(points), bool) if mask is None else mask
        both = mask[:, None] & mask[None]
        known = jnp.where(both, self._kernel(points, points), 0)
        across = jnp.where(mask[None], self._kernel(inputs, points), 0)
        factor = jnp.linalg.cholesky(known + self._noise(len(points)))
        solve = jax.scipy.linalg.solve_triangular
        residuals = solve(factor, jnp.where(mask[:, None], targets, 0), lower=True)
        explained = solve(factor, across.T, lower=True)
        variance = 1 + self.noise_std**2 - jnp.sum(explained**2, axis=0)
        return explained.T @ residuals, jnp.sqrt(variance)[:, None]

    def _kernel(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.exp(-((a - b.T) ** 2) / (2 * self.length_scale**2))

    def _noise(self, points: int) -> jax.Array:
        return self.noise_std**2 * jnp.eye(points)
