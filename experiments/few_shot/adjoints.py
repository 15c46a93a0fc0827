"""How inner loops are differentiated."""

from experiments.door import Part
from experiments.few_shot.flags import integer, not_negative, number, one_of, refuse
from experiments.few_shot.inner import INNER_RATE, INNER_STEPS

LAST = integer(
    "last",
    None,
    "How many of the last inner steps are differentiated in full; 0 is first order, and "
    "all is the default.",
    0,
)
REMAT = one_of(
    "remat",
    "none",
    ["none", "step", "nested", "tree"],
    "What of the inner loop is computed again rather than kept, to need less memory.",
)
FIRST_ORDER_UNTIL = integer(
    "first_order_until", 0, "Outer steps at first order, before those in full.", 0
)
SOLVER_ITERATIONS = integer(
    "solver_iterations", 5, "Products with the Hessian in --solver.", 0
)


@refuse("--last must be at most --inner_steps", LAST, INNER_STEPS)
def _no_more_than_there_are(values):
    return values["last"] is None or values["last"] <= values["inner_steps"]


@refuse("--first_order_until is for --last not set", FIRST_ORDER_UNTIL, LAST)
def _no_order_of_its_own(values):
    return not values["first_order_until"] or values["last"] is None


def _cg(*, solver_iterations):
    import metajax as mj

    return mj.adjoints.cg(solver_iterations)


def _gmres(*, solver_iterations):
    import metajax as mj

    return mj.adjoints.gmres(solver_iterations)


def _neumann(*, solver_iterations, inner_rate):
    import metajax as mj

    return mj.adjoints.neumann(solver_iterations, inner_rate)


def _dense():
    import metajax as mj

    return mj.adjoints.dense()


SOLVERS = {
    "cg": Part("conjugate gradients", _cg, (SOLVER_ITERATIONS,)),
    "gmres": Part("GMRES", _gmres, (SOLVER_ITERATIONS,)),
    "neumann": Part("Neumann's series", _neumann, (SOLVER_ITERATIONS, INNER_RATE)),
    "dense": Part("the whole Hessian", _dense),
}
SOLVER = one_of(
    "solver", "cg", list(SOLVERS), "How --adjoint=implicit solves its linear system."
)
DAMPING = number("damping", 0.0, "What --adjoint=implicit adds to the Hessian.")
not_negative(DAMPING)


@refuse(
    "--solver_iterations must be at least 1, but for --solver=neumann or dense",
    *(SOLVER, SOLVER_ITERATIONS),
)
def _iterations(values):
    return values["solver"] in ("neumann", "dense") or values["solver_iterations"] > 0


def _unroll(num_steps, *, last, remat):
    import metajax as mj

    return mj.adjoints.unroll(_at_most(last, num_steps), remat=remat)


def _mixed_mode(num_steps, *, last, remat):
    import metajax as mj

    return mj.adjoints.mixed_mode(_at_most(last, num_steps), remat=remat)


def _at_most(last: int | None, num_steps: int) -> int | None:
    """Evaluation may take fewer steps than training differentiates."""
    return None if last is None else min(last, num_steps)


def _implicit(num_steps, *, solver, damping):
    import metajax as mj

    del num_steps
    return mj.adjoints.implicit(solver(), damping=damping)


ADJOINTS = {
    "unroll": Part("step by step", _unroll, (LAST, REMAT), (FIRST_ORDER_UNTIL,)),
    "mixed_mode": Part(
        "the same, in forward-over-reverse mode",
        _mixed_mode,
        (LAST, REMAT),
        (FIRST_ORDER_UNTIL,),
    ),
    "implicit": Part("where it has come to rest", _implicit, (SOLVER, DAMPING)),
}
ADJOINT = one_of(
    "adjoint",
    None,
    list(ADJOINTS),
    "How the inner loop is differentiated: step by step, with the same result to "
    "rounding, or at the point of rest that it is taken to have reached. implicit by "
    "default for imaml, unroll for all others.",
)
