"""Hypernetwork: a strategy G that turns a support set into the parameters of a network F.

    codes[c] = generate(mean of embed(x) over the support examples x of class c)
    code = mean of codes[c] over the classes that have examples
    leaf = base + left @ diag(code) @ right                           in F's body
    leaf[..., c] = left @ codes[c]                                    in F's head

All that is generated depends on the support set, and what predicts a class comes from the
examples of that class, so that labels mean nothing in themselves. Thin factors keep G
small: a code of 32 numbers moves each of the 100 thousand of a 784-128-10 network.

Ha, Dai, Le 2016, "HyperNetworks", arXiv 1609.09106, section 3.1, for weights from a code;
Requeima, Gordon, Bronskill, Nowozin, Turner 2019, "Fast and Flexible Multi-Task
Classification Using Conditional Neural Adaptive Processes", arXiv 1906.07697, section 2,
for codes from sets, and class weights from the examples of a class.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import contracts, heads, trees
from metajax.base import Batch, Key, MetaLearner, Model, Params, PyTree
from metajax.learners import adapting_params, side_by_side


class Hypernetwork(NamedTuple):
    """What is meta-learned; a leaf that is not needed is None."""

    base: Params  # Params of F, but for its head.
    left: PyTree  # For each leaf that is generated, `[..., rank]`.
    right: PyTree  # For each of the body's among them, `[rank, features]`.
    embedding: Params
    generator: Params


def hypernetwork(
    model: Model,
    embedding: Model,
    generator: Model,
    ways: int | None,
    *,
    head: trees.Paths = "head/*",
    generated: trees.Paths = "*",
) -> MetaLearner:
    """A hypernetwork: the support set goes in, the parameters of a network come out.

    Args:
      model: F, any model, such as `mlp([128], 10)`.
      embedding: of support inputs, `[examples, features]`, such as `mlp([128], None)`;
        in regression of inputs and targets side by side, as vectors.
      generator: from means of features, `[classes, features]`, to codes
        `[classes, rank]`, such as `mlp([32], None)`.
      ways: classes a task; None for regression, in which all examples are of one class,
        and F has no head apart.
      head: which leaves of F have the classes as their last axis, by their paths; see
        `trees.split`. All of them are generated.
      generated: which of the others are generated; the rest are meta-learned alone.

    Returns:
      A meta-learner whose meta-parameters are `Hypernetwork`, and whose adapted ones are
      params of `model`.

    Raises:
      ValueError: by `init`, if nothing matches, or if a leaf of the head has something
        else than the classes as its last axis.

    Example:
      >>> digits = hypernetwork(  # doctest: +SKIP
      ...     models.mlp([128], 10), models.mlp([128], None), models.mlp([32], None), 10
      ... )
      >>> modulated = hypernetwork(  # doctest: +SKIP
      ...     models.conv4(5), models.conv4(None), models.mlp([32], None), 5,
      ...     generated="Normalize_*",
      ... )

    Note:
      Ha et al. learn a code for each layer instead of reading it from data. Requeima et
      al. generate scales and shifts of features, as `generated="Normalize_*"` does here,
      and a head, by a network for each layer. Of a class without support the head is
      what the generator makes of a mean of zeros.
    """
    contracts.check_models(model, embedding, generator)
    head = () if ways is None else head

    def init(key: Key, inputs: PyTree) -> Hypernetwork:
        keys = jax.random.split(key, 5)
        params = model.init(keys[0], inputs)
        of_head, base = trees.split(params, head)
        if any(leaf.shape[-1] != ways for leaf in jax.tree.leaves(of_head)):
            raise ValueError(
                f"hypernetwork: the last axis of each leaf of the head must be the {ways} "
                f"classes: got {jax.tree.map(jnp.shape, of_head)}."
            )
        if ways is None:
            outputs = jax.eval_shape(model.apply, params, inputs)
            inputs = side_by_side(inputs, jnp.zeros(outputs.shape, outputs.dtype))
        embedded = embedding.init(keys[1], inputs)
        features = embedding.apply(embedded, inputs)
        generating = generator.init(keys[2], features)
        rank = generator.apply(generating, features).shape[1]
        of_body, _ = trees.split(base, generated)
        both = trees.merge(of_head, of_body)
        left = _normal(keys[3], both, lambda leaf: (*leaf.shape[:-1], rank))
        right = _normal(keys[4], of_body, lambda leaf: (rank, leaf.shape[-1]))
        return Hypernetwork(base, left, right, embedded, generating)

    def generate(key: Key, meta: Hypernetwork, support: Batch) -> Params:
        del key  # Nothing is random.
        codes, code = _codes(embedding, generator, ways, meta, support)

        def leaf(base, left, right):
            if left is None:
                return base
            if right is None:
                return left @ codes.T
            return base + left @ (code[:, None] * right)

        of_f = meta.base, meta.left, meta.right
        return jax.tree.map(leaf, *of_f, is_leaf=lambda each: each is None)

    return adapting_params(model, generate, init)


def _codes(
    embedding: Model,
    generator: Model,
    ways: int | None,
    meta: Hypernetwork,
    support: Batch,
) -> tuple[jax.Array, jax.Array]:
    """Codes of the classes, `[classes, rank]`, and that of the support set, `[rank]`."""
    labels = support.targets
    if ways is None:
        support = support._replace(inputs=side_by_side(support.inputs, labels))
        labels = jnp.zeros(len(labels), int)
    features = embedding.apply(meta.embedding, support.shown)
    members = heads.memberships(labels, ways or 1, support.mask, features.dtype)
    codes = generator.apply(meta.generator, heads.class_means(features, members))
    shown = (members.sum(axis=0) > 0).astype(codes.dtype)
    return codes, heads.class_means(codes, shown[:, None])[0]


def _normal(key: Key, tree: PyTree, shape: Callable) -> PyTree:
    """Random leaves of given shapes whose products keep the scale of a vector."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        jax.random.normal(k, shape(leaf), leaf.dtype)
        * math.prod(shape(leaf)[:-1]) ** -0.5
        for k, leaf in zip(keys, leaves)
    )
