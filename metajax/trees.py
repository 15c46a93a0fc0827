"""The few helpers on pytrees that optax.tree lacks."""

import jax
import jax.numpy as jnp

from metajax.base import PyTree


def select(condition: jax.Array, if_true: PyTree, if_false: PyTree) -> PyTree:
    """Chooses between two trees of the same structure by one scalar condition.

    Args:
      condition: boolean scalar, may be traced.
      if_true: the tree returned where `condition` holds; PRNG keys may be leaves.
      if_false: the tree returned elsewhere.

    Returns:
      One of the two trees.
    """
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def size(tree: PyTree) -> int:
    """The number of scalars in a tree, such as a model's number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
