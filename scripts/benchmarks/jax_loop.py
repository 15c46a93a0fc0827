"""Outer steps in JAX as one compiled loop over ready tasks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .implementation import Implementation
from .workloads import NUM_BATCHES

# On GPU and TPU the default would be less than float32.
jax.config.update("jax_default_matmul_precision", "highest")


def compile_loop(
    step: Callable[[Any, Any], tuple[Any, jax.Array]],
    state: Any,
    batches: Any,
    first_moment: Callable[[Any], dict[str, jax.Array]],
) -> Implementation:
    """Compiles a loop of outer steps.

    Args:
      step: one outer step, `(state, tasks) -> (state, loss)`.
      state: where to start.
      batches: tasks to use in turn, `[batches, tasks, ...]`.
      first_moment: the first moment of Adam in a state, by name of the parameter.

    Returns:
      The implementation; the gradient is read from the state after a step, so that the
      program that is checked is the program that is timed.
    """

    def loop(state, batches, num_steps):
        def body(i, carry):
            return step(carry[0], jax.tree.map(lambda x: x[i % NUM_BATCHES], batches))

        loss = jax.eval_shape(body, 0, (state, None))[1]
        return jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros_like(loss)))

    batches = jax.tree.map(jnp.asarray, batches)
    state = jax.tree.map(jnp.copy, state)  # Its buffers are given up to the loop.
    compiled = jax.jit(loop, donate_argnums=0).lower(state, batches, 1).compile()

    def run(num_steps: int) -> float:
        nonlocal state
        state, loss = compiled(state, batches, num_steps)
        return float(loss)

    def gradient() -> dict[str, np.ndarray]:
        return {name: np.asarray(m) / 0.1 for name, m in first_moment(state).items()}

    temporary_bytes = compiled.memory_analysis().temp_size_in_bytes
    return on_device(run, gradient)._replace(temporary_bytes=temporary_bytes)


def on_device(
    run: Callable[[int], float], gradient: Callable[[], dict[str, np.ndarray]]
) -> Implementation:
    """An implementation that runs on JAX's first device."""
    device = jax.devices()[0]

    def device_bytes() -> int | None:
        statistics = device.memory_stats()  # None on a CPU.
        return statistics and statistics["peak_bytes_in_use"]

    return Implementation(
        run, gradient, device.platform, device.device_kind, device_bytes
    )
