"""Pre-trained networks for tables of any size, each compiled for a few sizes."""

from collections.abc import Callable
from functools import cache, partial
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import models, trees
from metajax.algorithms import in_context
from metajax.base import Adapted, Batch, MetaLearner, MetaParams

MOST_ROWS, MOST_COLUMNS = 1024, 32  # To learn from.
# Each size is compiled once: few of them, since compiling takes seconds.
_ROWS = (32, 64, 128, 256, 512, MOST_ROWS)
_COLUMNS = (4, 8, 16, MOST_COLUMNS)
_ASKED = (32, 256)  # Rows that are answered at a time.


class Network(NamedTuple):
    """A pre-trained network, and how it is run."""

    meta: MetaParams
    classes: int  # The bound of their number; 0 of a network for numbers.
    adapt: Callable[[MetaParams, Batch], Adapted]
    predict: Callable


@cache
def shipped(name: str) -> Network:
    """The network that the package brings for "classes" or for "numbers"."""
    return read(Path(__file__).parent / f"{name}.npz")


def read(path: str | Path) -> Network:
    """A network from a file of parameters, `best.npz` of a run of `experiments.tabular`.

    Raises:
      ValueError: if the file has none of such a network.
    """
    changed = Path(path).stat().st_mtime_ns if Path(path).exists() else 0
    return _read(str(path), changed)


@cache  # Estimators read them again and again.
def _read(path: str, changed: int) -> Network:
    del changed  # When: a file that is written anew is another.
    sizes = _sizes(path)
    classes, shape = sizes.pop("classes"), tuple(sorted(sizes.items()))
    learner = _learner(classes or None, shape)
    example = jnp.zeros((2, 1))
    like = jax.eval_shape(learner.init, jax.random.key(0), example)
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    meta = jax.device_put(trees.load(path, like))
    return Network(meta, classes, *_compiled(classes or None, shape))


def _sizes(path: str) -> dict[str, int]:
    try:
        with np.load(path) as file:
            belongs = json.loads(file["belongs_to.json"])  # As `trees.save` has it.
        return {
            name: int(belongs[name]) for name in ("classes", "width", "layers", "heads")
        }
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} has no parameters of a network for tables, as experiments.tabular "
            f"leaves them in best.npz: {error}"
        ) from error


def _learner(classes: int | None, shape: tuple[tuple[str, int], ...]) -> MetaLearner:
    network = models.table_transformer(classes, **dict(shape))
    return in_context(models.mlp([], None), network)


@cache  # So that what is compiled for one estimator serves all.
def _compiled(classes: int | None, shape: tuple[tuple[str, int], ...]):
    learner = _learner(classes, shape)

    @jax.jit
    def adapt(meta, support):
        return learner.adapt(jax.random.key(0), meta, support)  # Nothing is random.

    return adapt, jax.jit(learner.predict)


def adapt(network: Network, inputs: np.ndarray, targets: np.ndarray) -> Adapted:
    """Reads a table.

    Args:
      network: the network.
      inputs: `[rows, columns]`, NaN where a value is missing.
      targets: `[rows]` labels or `[rows, 1]` numbers.

    Returns:
      What the network adapted to, arrays on the host.
    """
    rows, columns = inputs.shape
    number = _bucket(rows, _ROWS)
    padded = np.zeros((number, _bucket(columns, _COLUMNS)), np.float32)
    padded[:, columns:] = np.nan
    padded[:rows, :columns] = inputs
    beyond = [(0, number - rows)] + [(0, 0)] * (targets.ndim - 1)
    support = Batch(padded, np.pad(targets, beyond), np.arange(number) < rows)
    return jax.device_get(network.adapt(network.meta, support))


def predict(network: Network, adapted: Adapted, inputs: np.ndarray):
    """Outputs `[rows, ...]` of the network for the rows of `inputs`."""
    width = adapted.memory.features.shape[-1]
    found = []
    for first in range(0, len(inputs), _ASKED[-1]):
        some = inputs[first : first + _ASKED[-1]]
        number = len(some)
        padded = np.zeros((_bucket(number, _ASKED), width), np.float32)
        padded[:number, : some.shape[1]] = some
        outputs = jax.device_get(network.predict(network.meta, adapted, padded))
        found.append(jax.tree.map(partial(_first, number), outputs))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _first(number: int, outputs: np.ndarray) -> np.ndarray:
    return outputs[:number]


def _bucket(number: int, sizes: tuple[int, ...]) -> int:
    """The least of the sizes that holds a number."""
    return next(size for size in sizes if size >= number)
