"""Random structural causal models: what tables are made from."""

from functools import partial

import jax
import jax.numpy as jnp

from metajax.data.draws import Draws, count

_LEVELS = 3  # Of an oblivious tree.
_COMPONENTS = 6  # Of a mixture, at most.


def structural_model(
    draws: Draws, rows: int, depth: int, width: int, noise_std: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows of a random causal graph in layers.

        node = standardised(mechanism(nodes of the layer before)) + std * noise

    A mechanism is one neuron, its weights sparse and its activation one of many, or an
    oblivious tree. How many layers, how many nodes in each, how sparse, how noisy and how
    often a tree: each graph draws its own.

    Args:
      draws: make the graph and the rows.
      rows: how many.
      depth: layers after the roots, at most.
      width: nodes of a layer, at most, at least 2.
      noise_std: the largest standard deviation of a graph's noise.

    Returns:
      The nodes `[rows, (depth + 1) * width]`, which of them are part of the graph,
      `[(depth + 1) * width]`, and the component of each row, `[rows]`, integers: one that
      moves some of the roots.

    Source:
      Hollmann et al. 2022 (arXiv 2207.01848), section 4, for graphs as priors; Qu et al.
      2025 (arXiv 2502.05564), section 4, for trees as mechanisms.
    """
    used = draws.integers(2, width + 1)
    layers = draws.integers(1, depth + 1)
    std = jnp.exp(jnp.log(0.01) + draws.uniform() * jnp.log(noise_std / 0.01))
    here = jnp.arange(width) < used
    density = draws.uniform(low=0.3)
    share = jnp.maximum(draws.uniform(low=-0.7), 0)  # Of trees; often none.
    values, components = _roots(draws, rows, width)
    make = partial(_layer, here=here, density=density, share=share, std=std)
    number = count(partial(make, values))

    def layer(values, numbers):
        values = make(values, Draws(numbers))
        return values, values

    _, later = jax.lax.scan(layer, values, draws.uniform(depth, number))
    nodes = jnp.concatenate([values[None], later]).transpose(1, 0, 2)
    there = (jnp.arange(depth + 1) <= layers)[:, None] & here[None]
    return nodes.reshape(rows, -1), there.ravel(), components


def _roots(draws: Draws, rows: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Causes without a cause: normal, uniform, of heavy tails, or moved by a component."""
    normal = draws.normal(rows, width)
    uniform = draws.uniform(rows, width, low=-1.7, high=1.7)
    heavy = normal * jnp.exp(uniform / 2)
    number = draws.integers(2, _COMPONENTS + 1)
    components = draws.integers(0, number, rows)
    centers = 2 * draws.normal(_COMPONENTS, width)
    kinds = [normal, uniform, heavy, normal + centers[components]]
    return _one_of(kinds, draws.integers(0, len(kinds), width)), components


def _layer(values, draws, *, here, density, share, std) -> jax.Array:
    """New nodes `[rows, nodes]` from those before; a share of them by trees."""
    rows, width = values.shape
    joined = (draws.uniform(width, width) < density) & here[:, None]
    # Each node has a parent, whatever was drawn.
    joined |= jnp.eye(width, dtype=bool)
    weights = jnp.where(joined, draws.normal(width, width), 0)
    weights /= jnp.linalg.norm(weights, axis=0, keepdims=True) + 1e-6
    neurons = activated(draws, values @ weights)
    trees = oblivious_trees(draws, values, here, width)
    moved = jnp.where(draws.uniform(1, width) < share, trees, neurons)
    each_std = std * jnp.exp(0.5 * draws.normal(1, width))
    return standardised(moved) + each_std * draws.normal(rows, width)


def activated(draws: Draws, values: jax.Array) -> jax.Array:
    """Columns `[rows, nodes]`, each shifted, stretched and bent by a function drawn."""
    nodes = values.shape[1]
    x = values * jnp.exp(0.5 * draws.normal(1, nodes)) + 0.7 * draws.normal(1, nodes)
    bent = [x, x, jnp.tanh(x), jnp.tanh(2 * x), jax.nn.relu(x), jnp.abs(x)]
    bent += [jnp.sin(2 * x), jnp.square(x), jnp.exp(-jnp.square(x))]
    bent += [(x > 0).astype(x.dtype), jnp.sign(x) * jnp.sqrt(jnp.abs(x))]
    return _one_of(bent, draws.integers(0, len(bent), nodes))


def oblivious_trees(
    draws: Draws, values: jax.Array, here: jax.Array, trees: int
) -> jax.Array:
    """Trees that ask the same question at all nodes of a level.

    Args:
      draws: make questions, thresholds among the values, and what leaves say.
      values: `[rows, columns]`.
      here: the columns that may be asked for, `[columns]`, which come first.
      trees: how many.

    Returns:
      What each says of each row, `[rows, trees]`.
    """
    asked = draws.integers(0, here.sum(), _LEVELS, trees)
    at = draws.integers(0, len(values), _LEVELS, trees)
    bits = values[:, asked] > values[at, asked][None]
    powers = (2 ** jnp.arange(_LEVELS))[None, :, None]
    places = jnp.sum(jnp.where(bits, powers, 0), axis=1)
    return jnp.take_along_axis(draws.normal(2**_LEVELS, trees), places, axis=0)


def standardised(values: jax.Array) -> jax.Array:
    """Columns `[rows, columns]` of mean 0 and standard deviation 1, or 0 throughout."""
    centered = values - jnp.mean(values, axis=0, keepdims=True)
    return centered / (jnp.std(values, axis=0, keepdims=True) + 1e-3)


def _one_of(kinds: list[jax.Array], kind: jax.Array) -> jax.Array:
    """For each column that of the kinds, `[rows, columns]` each, whose number it has."""
    number = jnp.broadcast_to(kind[None, None], (1, *kinds[0].shape))
    return jnp.take_along_axis(jnp.stack(kinds), number, axis=0)[0]
