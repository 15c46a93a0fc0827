"""Numbers that only a backward pass knows, as metrics of the estimator that runs it.

An adjoint that solves a linear system in its backward pass would like to say how well it
did, but a backward pass returns cotangents and nothing else. So the number leaves as the
cotangent of a zero, the probe, which the estimator puts there and differentiates by.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax
from jax.extend.core import get_opaque_trace_state
import jax.numpy as jnp

NAMES = ("inner_gradient", "solver_residual")


class _Probes(NamedTuple):
    values: dict[str, jax.Array]
    used: Counter[str]
    trace: object  # That of the objective.


_probes: ContextVar[_Probes | None] = ContextVar("probes", default=None)


@contextmanager
def collecting(values: dict[str, jax.Array], used: Counter[str]) -> Iterator[None]:
    """Offers probes to what is traced within, and notes those that are taken.

    Args:
      values: a zero for each of `NAMES`, by which the caller differentiates.
      used: where it is counted how often each is taken.
    """
    token = _probes.set(_Probes(values, used, get_opaque_trace_state()))
    try:
        yield
    finally:
        _probes.reset(token)


def probe(name: str) -> jax.Array:
    """A zero whose cotangent becomes the metric of that name, if anyone collects it.

    Within a function that is traced by itself (compiled, checkpointed, scanned) nobody
    does: JAX keeps such a trace for later, and with it the probe.
    """
    probes = _probes.get()
    if probes is None or probes.trace != get_opaque_trace_state():
        return jnp.float32(0)
    probes.used[name] += 1
    return probes.values[name]
