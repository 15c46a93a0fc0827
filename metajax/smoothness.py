"""Whether a gradient through a long training tells anything about where it leads."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import logging
import jax
import optax

from metajax.base import MetaParams

_LEAST = 0.5  # Of the change that a gradient foretells: what is taken for agreement.


class SlopeCheck(NamedTuple):
    """A loss along its gradient, beside what the gradient says."""

    slope: float  # The norm of the gradient: its change a unit of distance.
    found: Mapping[float, float]  # By distance, likewise, as it is found.

    @property
    def agreement(self) -> dict[float, float]:
        """By distance, found over foretold: 1 where the loss is as its gradient says."""
        return {distance: found / self.slope for distance, found in self.found.items()}

    @property
    def reach(self) -> float:
        """The greatest distance up to which half to twice of what is foretold is found.

        It is 0 where that is at no distance so.
        """
        reached = 0.0
        for distance, agreement in sorted(self.agreement.items()):
            if not _LEAST <= agreement <= 1 / _LEAST:
                break
            reached = distance
        return reached


def check_slope(
    loss: Callable[[MetaParams], jax.Array],
    meta: MetaParams,
    gradient: MetaParams,
    distances: tuple[float, ...] = (0.01, 0.1, 1.0),
) -> SlopeCheck:
    """Holds a gradient against the loss itself, some way up and down along it.

        step            = distance * gradient / |gradient|
        found[distance] = (loss(meta + step) - loss(meta - step)) / (2 distance)

    to be compared with `|gradient|`. The derivative of a long training may be right to the
    last digit and tell nothing: where training is chaotic it is that of a ripple, huge or
    of any sign, and not of the loss over distances that one would go. What smooths it are
    smaller inner rates above all, then wider networks and averaged parameters; gradients
    that need no smoothness are those of `estimators.evolution` and `persistent`.

    Args:
      loss: of meta-parameters, the same function that was differentiated, with the same
        randomness; compiled, since it is called twice a distance.
      meta: the meta-parameters.
      gradient: its gradient there, by any adjoint or estimator.
      distances: how far to go, in the norm of all meta-parameters together.

    Returns:
      The slope foretold and the slopes found. There is a warning if they differ by more
      than half at all distances.

    Raises:
      ValueError: if the gradient is zero or not finite, or a distance not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> check = check_slope(
      ...     lambda x: jnp.sum(x**2), jnp.ones(4), 2 * jnp.ones(4), (0.1,)
      ... )
      >>> round(check.agreement[0.1], 4)
      1.0

    Source:
      After the metasmoothness of Engstrom et al. 2025 (arXiv 2503.13751), section 3.

    Note:
      Theirs looks at how the trained parameters change; here a loss is held against its
      gradient.
    """
    slope = float(optax.tree.norm(gradient))
    if not 0 < slope < float("inf") or not distances or min(distances) <= 0:
        raise ValueError(
            "check_slope needs a finite gradient that is not zero, and positive distances: "
            f"got one of norm {slope} and {distances}."
        )

    def at(distance: float) -> float:
        along: Any = optax.tree.add_scale(meta, distance / slope, gradient)
        return float(loss(along))

    found = {d: (at(d) - at(-d)) / (2 * d) for d in distances}
    check = SlopeCheck(slope, found)
    if not any(_LEAST <= x <= 1 / _LEAST for x in check.agreement.values()):
        logging.warning(
            "The gradient says that the loss changes by %.3g a unit, but it changes by %s: "
            "the training is chaotic there, and its gradient tells nothing. Smaller inner "
            "rates smooth it, and evolution and persistent need no smoothness.",
            slope,
            ", ".join(f"{value:.3g} over {d:g}" for d, value in found.items()),
        )
    return check
