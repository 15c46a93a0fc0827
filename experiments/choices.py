"""What a learner does by its paper, where the flags leave it open; loads no JAX."""

# Learners whose derivative is their own, so that no flag chooses it.
SETTLED = ("fomaml", "reptile", "warpgrad")


def adjoint(learner: str, asked: str | None) -> str:
    return asked or ("implicit" if learner == "imaml" else "unroll")


def estimator(learner: str, asked: str | None) -> str:
    return asked or ("displacement" if learner == "reptile" else "backprop")


def unrolls(learner: str, adjoint_asked: str | None, estimator_asked: str | None):
    """Whether the inner loop is differentiated step by step."""
    return (
        learner not in SETTLED
        and estimator(learner, estimator_asked) == "backprop"
        and adjoint(learner, adjoint_asked) != "implicit"
    )
