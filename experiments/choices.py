"""What flags must know of the learners, and where they leave things open; no JAX here."""

from typing import NamedTuple


class Traits(NamedTuple):
    """What sets a learner apart from others, as far as flags go.

    Attributes:
      reads: flags that it reads and not every learner does.
      inner_steps: whether it takes any.
      adjoint: how its inner loop is differentiated by default; None where that is its
        own, so that no flag chooses it.
      rests: whether its inner loop may come to rest, so that --adjoint=implicit suits.
      estimator: that of its meta-gradient by default.
      moves: whether what inner steps move is what is meta-learned, so that
        --estimator=displacement suits.
      any_ways: whether it classifies with no parameter that depends on the ways, so that
        they may differ in evaluation.
    """

    reads: tuple[str, ...] = ()
    inner_steps: bool = True
    adjoint: str | None = "unroll"
    rests: bool = False
    estimator: str = "backprop"
    moves: bool = True
    any_ways: bool = False


def _without_inner_steps(*reads: str) -> Traits:
    return Traits(reads, inner_steps=False, adjoint=None, moves=False)


def _fitting_a_head(*reads: str) -> Traits:
    return _without_inner_steps(*reads)._replace(any_ways=True)


LEARNERS = {
    "maml": Traits(("adapted",)),
    "fomaml": Traits(adjoint=None),
    "reptile": Traits(
        ("inner_batch", "keep_inner_state"), adjoint=None, estimator="displacement"
    ),
    "anil": Traits(("adapted",), rests=True),
    "boil": Traits(("adapted",)),
    "meta_sgd": Traits(("adapted", "initial_rates", "rate_per", "per_step")),
    "meta_curvature": Traits(("adapted",)),
    "cavia": Traits(("num_context",), rests=True),
    "imaml": Traits(("adapted", "regularization"), adjoint="implicit", rests=True),
    "maml_plus_plus": Traits(("adapted", "per_step", "multi_step_loss")),
    "warpgrad": Traits(adjoint=None, moves=False),
    "protonet": _fitting_a_head(),
    "matching_net": _fitting_a_head("context_steps"),
    "relation_net": _fitting_a_head("relation"),
    "r2d2": _fitting_a_head(),
    "metaoptnet": _fitting_a_head("regularization", "convex_head"),
    "meta_baseline": _fitting_a_head(),
    "in_context": _without_inner_steps(
        "reader", "reader_width", "reader_layers", "reader_heads"
    ),
    "hypernetwork": _without_inner_steps("code", "generated"),
    "baseline": Traits(("new_head",), adjoint=None, moves=False, any_ways=True),
}


# Data whose tasks are of images; those of one's own arrays may be anything.
IMAGES = {"omniglot", "mnist", "cifar_fs", "fc100", "glyphs", "folder"}


def learners_reading(flag: str) -> list[str]:
    """The learners that read a flag which not every one does."""
    return [name for name, traits in LEARNERS.items() if flag in traits.reads]


def adjoint(learner: str, asked: str | None) -> str:
    return asked or LEARNERS[learner].adjoint or "unroll"


def estimator(learner: str, asked: str | None) -> str:
    return asked or LEARNERS[learner].estimator


def unrolls(learner: str, adjoint_asked: str | None, estimator_asked: str | None):
    """Whether the inner loop is differentiated step by step."""
    return (
        LEARNERS[learner].adjoint is not None
        and estimator(learner, estimator_asked) == "backprop"
        and adjoint(learner, adjoint_asked) != "implicit"
    )


def eval_inner_steps(config) -> list[int]:
    """The numbers of inner steps to report."""
    default = (0, 1, 5, 10) if LEARNERS[config.learner].inner_steps else (0,)
    return list(map(int, config.eval_inner_steps or default))


def select_inner_steps(config) -> list[int]:
    """The numbers of inner steps by whose mean score parameters are chosen."""
    default = (10,) if LEARNERS[config.learner].inner_steps else (0,)
    return list(map(int, config.select_inner_steps or default))


def seeds(config) -> range:
    """The seeds that a run trains."""
    return range(config.seed, config.seed + config.num_seeds)
