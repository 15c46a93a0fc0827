"""Inner loops that treat some of the params in another way than the others."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from metajax import trees
from metajax.base import Adjoint, Args, InnerLoss, Params, PyTree, Solve
from metajax.trees import Paths


def only(paths: Paths, adjoint: Adjoint) -> Adjoint:
    """Lets an inner loop change some of the params, and leaves the others alone.

    The others reach the inner loss as they are: they have a meta-gradient all the same.

    Args:
      paths: which params: a shell pattern of their paths such as "head/*", several
        patterns, or a predicate on a path; see `trees.split`.
      adjoint: how the inner loop is differentiated.

    Returns:
      An adjoint, whose optimizer sees the chosen params alone.

    Raises:
      ValueError: when traced, if no param matches; the message lists those there are.

    Example:
      MAML that adapts the convolutions and nothing else:

      >>> adjoint = only("Conv_*/kernel", unroll())  # doctest: +SKIP
      >>> learner = maml(model, loss, optimizer, 1, adjoint=adjoint)  # doctest: +SKIP
    """

    def adjoint_of_some(
        loss: InnerLoss, optimizer: optax.GradientTransformation, num_steps: int
    ) -> Solve:
        def loss_of_some(some: Params, others_and_args: tuple[Params, Args], *own):
            others, args = others_and_args
            return loss(trees.merge(some, others), args, *own)

        solve_some = adjoint(loss_of_some, optimizer, num_steps)

        def solve(
            params: Params, args: Args, per_step: PyTree = None, *, iterates=False
        ) -> Params:
            some, others = trees.split(params, paths)
            solved = solve_some(some, (others, args), per_step, iterates=iterates)
            if iterates:
                others = jax.tree.map(
                    lambda x: jnp.broadcast_to(x, (num_steps + 1, *x.shape)), others
                )
            return trees.merge(solved, others)

        return solve

    return adjoint_of_some


def by_path(
    transformations: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """An optimizer for each group of params, such as a rate of its own for the head.

    Args:
      transformations: optax transformations by the shell pattern of the paths they are
        for. Each param gets the first one whose pattern it matches.

    Returns:
      An optax transformation.

    Raises:
      ValueError: when traced, if a param matches no pattern, or a pattern no param.

    Example:
      >>> optimizer = by_path({"head/*": optax.sgd(0.1), "*": optax.sgd(0.01)})
    """

    def label(params: Params) -> PyTree:
        found = trees.first_match(params, list(transformations))
        missing = set(transformations) - set(jax.tree.leaves(found))
        if missing:
            raise ValueError(
                f"by_path: no param is left for {', '.join(sorted(missing))}: there are "
                f"{', '.join(trees.leaf_paths(params))}."
            )
        return found

    return optax.partition({**transformations}, label)
