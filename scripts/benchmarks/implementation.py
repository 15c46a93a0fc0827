"""What the harness asks of metajax and of its peers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEARNING_RATE = 1e-3  # Of the outer Adam.


class Implementation(NamedTuple):
    """One way to take the outer steps of a workload.

    Attributes:
      run: takes a number of outer steps, and returns the loss of the last once it is
        there.
      gradient: the meta-gradient of the first step, by name of the parameter; to be
        asked for when one step was taken.
      platform: "cpu", "gpu" or "tpu".
      device: the device, in words.
      device_bytes: the most memory held on the device so far; None on a CPU.
      temporary_bytes: what the compiled step allocates beside its arguments, if known.
    """

    run: Callable[[int], float]
    gradient: Callable[[], dict[str, np.ndarray]]
    platform: str
    device: str
    device_bytes: Callable[[], int | None]
    temporary_bytes: int | None = None
