"""Tables drawn from random causal graphs: tasks to learn the reading of tables from."""

import dataclasses

import jax
import jax.numpy as jnp

from metajax.base import Batch, Key, Task
from metajax.data.draws import Draws, drawn
from metajax.data.mechanisms import (
    activated,
    oblivious_trees,
    standardised,
    structural_model,
)

_LEVELS = 8  # Of a feature of categories, at most.
_TREES = 6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tables:
    """Draws tables of many kinds: a pure function of a key.

    The support are rows to learn from, the query rows to predict. Features and target are
    nodes of a random causal graph; or the target is made of the features, by a linear
    function, a network and trees. Some features are categories, some bent, copied or pure
    noise, and in some tables values are missing. Tables differ in all of their sizes:

    - rows: those of the support beyond a table's own number are masked;
    - columns: those beyond are missing throughout, as NaN, like any missing value;
    - classes: labels are below the table's own number, in random order and of random
      shares. Queries of a class that no support row has are masked.

    Attributes:
      features: columns, at most.
      classes: at most, at least 2; None for a real target, `[rows, 1]`.
      shots: support rows, at most.
      queries: query rows.
      fewest_shots: support rows, at least.
      depth: layers of the graph, at most.
      width: nodes of a layer, at most.
      noise_std: of a graph's noise, at most.
      missing: the share of tables with missing values.

    Raises:
      ValueError: if a size is none.

    Source:
      Hollmann et al. 2022 (arXiv 2207.01848), section 4 and appendix.

    Example:
      >>> tables = Tables(features=4, classes=3, shots=20, queries=5)
      >>> task = jax.jit(tables)(jax.random.key(0))
      >>> task.support.inputs.shape, task.support.mask.shape, task.query.targets.shape
      ((20, 4), (20,), (5,))
    """

    features: int = dataclasses.field(metadata={"static": True})
    classes: int | None = dataclasses.field(metadata={"static": True})
    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    fewest_shots: int = dataclasses.field(default=10, metadata={"static": True})
    depth: int = dataclasses.field(default=3, metadata={"static": True})
    width: int = dataclasses.field(default=10, metadata={"static": True})
    noise_std: float = dataclasses.field(default=1.0, metadata={"static": True})
    missing: float = dataclasses.field(default=0.2, metadata={"static": True})

    def __post_init__(self):
        sizes = self.features, self.shots, self.queries, self.fewest_shots, self.depth
        if min(sizes) < 1 or self.fewest_shots > self.shots or self.width < 2:
            raise ValueError(
                "Tables: features, shots, queries, fewest_shots and depth must be at "
                "least 1, fewest_shots at most shots, and width at least 2: got "
                f"{self}."
            )
        if self.classes is not None and self.classes < 2:
            raise ValueError(
                f"Tables: classes must be at least 2, or None: got {self.classes}."
            )
        if not self.noise_std >= 0.01 or not 0 <= self.missing <= 1:
            raise ValueError(
                "Tables: noise_std must be at least 0.01, missing a share from 0 to 1: got "
                f"{self.noise_std}, {self.missing}."
            )

    def __call__(self, key: Key) -> Task:
        return drawn(key, self._task)

    def _task(self, draws: Draws) -> Task:
        rows, shots = self.shots + self.queries, self.shots
        nodes, there, components = structural_model(
            draws, rows, self.depth, self.width, self.noise_std
        )
        columns, target = _columns(draws, nodes, there, self.features)
        # The larger of two numbers: most of a table is there, rather than padding.
        some = draws.integers(1, self.features + 1, 2).max()
        present = jnp.arange(self.features) < some
        target = _target(draws, columns, present, target)
        inputs = _observed(draws, columns, present, self.missing)
        mask = jnp.arange(shots) < draws.integers(self.fewest_shots, shots + 1)
        if self.classes is None:
            targets = standardised(_bent(draws, target[:, None]))
            asked = jnp.ones(self.queries, bool)
        else:
            seen = jnp.concatenate([target[:, None], standardised(columns)], axis=1)
            seen = jnp.where(jnp.append(True, present)[None], seen, 0)
            targets = _labels(draws, seen, components, self.classes)
            same = targets[shots:, None] == targets[None, :shots]
            asked = jnp.any(same & mask[None], axis=1)
        shown = jnp.where(mask[:, None], inputs[:shots], 0)
        return Task(
            Batch(shown, targets[:shots], mask),
            Batch(inputs[shots:], targets[shots:], asked),
        )


def _columns(
    draws: Draws, nodes: jax.Array, there: jax.Array, features: int
) -> tuple[jax.Array, jax.Array]:
    """Nodes of a graph as features `[rows, features]`, and another as target `[rows]`."""
    rows, number = nodes.shape
    order = jnp.argsort(jnp.where(there, draws.uniform(number), 2))
    places = order[jnp.arange(1, features + 1) % number]
    of_graph = there[places] & (jnp.arange(features) + 1 < number)
    kind = draws.uniform(1, features)
    noise = draws.normal(rows, features)
    columns = jnp.where(of_graph[None] & (kind > 0.1), nodes[:, places], noise)
    copied = columns[:, draws.order(features)] + 0.3 * noise
    return jnp.where(kind > 0.92, copied, columns), nodes[:, order[0]]


def _target(
    draws: Draws, columns: jax.Array, present: jax.Array, node: jax.Array
) -> jax.Array:
    """The node of the graph, or a function of the columns present, `[rows]`."""
    x = jnp.where(present[None], standardised(columns), 0)
    rows, features = x.shape
    joined = draws.uniform(features, 1) < 0.7
    linear = x @ jnp.where(joined, draws.normal(features, 1), 0)
    hidden = standardised(activated(draws, x @ draws.normal(features, 2 * _TREES)))
    trees = oblivious_trees(draws, x, present, _TREES)
    parts = [linear, hidden.sum(1, keepdims=True), trees.sum(1, keepdims=True)]
    # Often nearly one of them alone.
    weights = jnp.exp(2 * draws.normal(1, len(parts)))
    mixed = standardised(jnp.concatenate(parts, axis=1)) * weights
    made = standardised(mixed.sum(axis=1, keepdims=True))[:, 0]
    made += jnp.exp(draws.uniform(low=-4.0, high=0.7)) * draws.normal(rows)
    return jnp.where(draws.uniform() < 0.5, node, made)


def _labels(
    draws: Draws, seen: jax.Array, components: jax.Array, most: int
) -> jax.Array:
    """Classes: the target cut into intervals, the largest of scores, or components."""
    rows, columns = seen.shape
    # Half of the tables have two classes; of more there are fewer and fewer.
    extra = -jnp.log2(draws.uniform(low=1e-6)).astype(jnp.int32)
    number = jnp.minimum(2 + extra, most)
    there = jnp.arange(most) < number
    shares = jnp.exp(draws.uniform() * draws.normal(most))
    shares = jnp.where(there, shares, 0)
    cuts = jnp.cumsum(shares / shares.sum())
    intervals = jnp.sum(_ranks(seen[:, :1]) > cuts[None, :-1], axis=1)
    scores = seen @ draws.normal(columns, most) + jnp.log(shares + 1e-9)[None]
    largest = jnp.argmax(jnp.where(there[None], scores, -jnp.inf), axis=1)
    kind = draws.uniform()
    labels = jnp.where(kind < 0.6, jnp.minimum(intervals, number - 1), largest)
    labels = jnp.where(kind < 0.85, labels, components % number)
    order = jnp.argsort(jnp.where(there, draws.uniform(most), 2))
    # In some tables labels err.
    wrong = draws.uniform(rows) < draws.uniform(low=-0.4, high=0.2)
    others = draws.integers(0, number, rows)
    return order[jnp.where(wrong, others, labels)].astype(jnp.int32)


def _observed(
    draws: Draws, columns: jax.Array, present: jax.Array, share: float
) -> jax.Array:
    """Columns as tables have them: bent, in categories, and with values missing."""
    rows, features = columns.shape
    ranks = _ranks(columns)
    discrete = draws.uniform(1, features) < draws.uniform(low=-0.7)
    levels = draws.integers(2, _LEVELS + 1, 1, features)
    bounds = draws.uniform(1, features, _LEVELS - 1)
    counted = jnp.arange(_LEVELS - 1)[None, None] < levels[..., None] - 1
    codes = jnp.sum((ranks[..., None] > bounds) & counted, axis=2)
    named = jnp.take_along_axis(draws.order(_LEVELS, features), codes, axis=0)
    codes = jnp.where(draws.uniform(1, features) < 0.5, codes, named)
    values = jnp.where(discrete, codes.astype(columns.dtype), _bent(draws, columns))
    rates = jnp.maximum(draws.uniform(1, features, low=-0.4, high=0.4), 0)
    rates = jnp.where(draws.uniform() < share, rates, 0)
    # Missing at random, or where the value is large.
    high, chance = draws.uniform(1, features) < 0.3, draws.uniform(rows, features)
    gone = jnp.where(high, 1 - ranks, chance) < rates
    return jnp.where(gone | ~present[None], jnp.nan, values)


def _bent(draws: Draws, columns: jax.Array) -> jax.Array:
    """Monotone functions of columns, half of which stay as they are."""
    kind = draws.uniform(1, columns.shape[1])
    power = draws.uniform(1, columns.shape[1], low=-1.0)
    x = standardised(columns)
    size = jnp.power(jnp.abs(x) + 1e-6, jnp.exp(power))
    grown = jnp.exp(jnp.clip((1 + power) * x, -4, 4))
    bent = jnp.where(kind < 0.75, jnp.sign(x) * size, grown)
    return jnp.where(kind < 0.5, x, bent)


def _ranks(columns: jax.Array) -> jax.Array:
    """Ranks within each column, from 0 to 1."""
    order = jnp.argsort(jnp.argsort(columns, axis=0), axis=0)
    return (order.astype(columns.dtype) + 0.5) / len(columns)
