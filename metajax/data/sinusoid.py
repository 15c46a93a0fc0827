"""Regression on sinusoids: tasks drawn from a key, with no data behind them."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax.base import Batch, Key, Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sinusoid:
    """Draws tasks of regressing one sinusoid: a pure function of a key.

        targets = amplitude * sin(inputs - phase)

    Attributes:
      shots: support points.
      queries: query points.
      amplitude: bounds of the uniform amplitude.
      phase: bounds of the uniform phase, in radians.
      inputs: bounds of the uniform inputs.

    Source:
      Finn et al. 2017 (arXiv 1703.03400), section 5.1.

    Note:
      The amplitude reaches 5.0, as in the paper; several libraries ship 0.5, which
      makes errors a hundred times smaller.

    Example:
      >>> task = Sinusoid(shots=10, queries=10)(jax.random.key(0))
      >>> task.support.inputs.shape, task.query.targets.shape
      ((10, 1), (10, 1))
    """

    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    amplitude: tuple[float, float] = dataclasses.field(
        default=(0.1, 5.0), metadata={"static": True}
    )
    phase: tuple[float, float] = dataclasses.field(
        default=(0.0, jnp.pi), metadata={"static": True}
    )
    inputs: tuple[float, float] = dataclasses.field(
        default=(-5.0, 5.0), metadata={"static": True}
    )

    def __post_init__(self):
        if min(self.shots, self.queries) < 1:
            raise ValueError(
                f"shots and queries must be at least 1: got {self.shots}, "
                f"{self.queries}."
            )

    def __call__(self, key: Key) -> Task:
        task_key, query_key = jax.random.split(key)
        return self.at(task_key, _uniform(query_key, (self.queries, 1), self.inputs))

    def at(self, key: Key, inputs: jax.Array) -> Task:
        """Draws a task whose query points are the given inputs, `[points, 1]`."""
        amplitude_key, phase_key, support_key = jax.random.split(key, 3)
        amplitude = _uniform(amplitude_key, (), self.amplitude)
        phase = _uniform(phase_key, (), self.phase)
        shown = _uniform(support_key, (self.shots, 1), self.inputs)
        support, query = (
            Batch(points, amplitude * jnp.sin(points - phase))
            for points in (shown, inputs)
        )
        return Task(support, query)


def _uniform(key: Key, shape: tuple[int, ...], bounds: tuple[float, float]):
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])
