"""The outer loop: how meta-gradients are estimated, and by what optimizer they move."""

from experiments.door import Part
from experiments.few_shot.flags import (
    integer,
    names,
    not_negative,
    number,
    one_of,
    positive,
    text,
)

OUTER_OPTIMIZER = text(
    "outer_optimizer",
    "adam",
    "Of outer steps: sgd, adam or another of optax, or package.module:factory.",
)
OUTER_RATE = number("outer_rate", 1e-3, "Rate of the outer optimizer.")
OUTER_OPTIONS = names("outer_options", [], "Further arguments of the outer optimizer.")
OUTER_CLIP = number(
    "outer_clip",
    None,
    "Greatest norm of a meta-gradient: longer ones are shortened to it before the outer "
    "optimizer; none are by default.",
)
OUTER_FINAL_RATE = number(
    "outer_final_rate", 0.0, "Outer rate at the end of the schedule."
)
FROZEN = names(
    "frozen",
    [],
    "Meta-parameters that are not learned, as shell patterns such as Conv_*.",
)
EVOLUTION_PAIRS = integer(
    "evolution_pairs", 32, "Antithetic pairs of --estimator=evolution.", 1
)
EVOLUTION_STD = number(
    "evolution_std", 0.01, "Standard deviation of the noise of --estimator=evolution."
)
positive(OUTER_RATE, OUTER_CLIP, EVOLUTION_STD)
not_negative(OUTER_FINAL_RATE)


def _constant(num_steps, *, outer_rate):
    del num_steps
    return outer_rate


def _linear(num_steps, *, outer_rate, outer_final_rate):
    import optax

    return optax.linear_schedule(outer_rate, outer_final_rate, max(num_steps, 1))


def _cosine(num_steps, *, outer_rate, outer_final_rate):
    import optax

    end = outer_final_rate / outer_rate
    return optax.cosine_decay_schedule(outer_rate, max(num_steps, 1), end)


SCHEDULES = {
    "constant": Part("the same rate", _constant, (OUTER_RATE,)),
    "linear": Part("along a line", _linear, (OUTER_RATE, OUTER_FINAL_RATE)),
    "cosine": Part("along a cosine", _cosine, (OUTER_RATE, OUTER_FINAL_RATE)),
}
OUTER_SCHEDULE = one_of(
    "outer_schedule",
    "constant",
    list(SCHEDULES),
    "How the outer rate falls to --outer_final_rate over --num_steps.",
)


def _backprop(problem, learner, objective, layout):
    import metajax as mj

    del problem, learner
    return mj.estimators.backprop(objective, **layout._asdict())


def _displacement(problem, learner, objective, layout):
    import metajax as mj

    del objective
    return mj.estimators.displacement(
        learner, problem.loss, **layout._asdict(), **problem.metrics
    )


def _evolution(problem, learner, objective, layout, *, evolution_pairs, evolution_std):
    import metajax as mj

    del problem, learner
    return mj.estimators.evolution(
        objective, num_pairs=evolution_pairs, std=evolution_std, **layout._asdict()
    )


ESTIMATORS = {
    "backprop": Part("the gradient through the inner loop", _backprop),
    "displacement": Part("where inner steps have moved to", _displacement),
    "evolution": Part(
        "differences of losses at random", _evolution, (EVOLUTION_PAIRS, EVOLUTION_STD)
    ),
}
ESTIMATOR = one_of(
    "estimator",
    None,
    list(ESTIMATORS),
    "How the meta-gradient is estimated; displacement by default for reptile, backprop "
    "for all others.",
)
