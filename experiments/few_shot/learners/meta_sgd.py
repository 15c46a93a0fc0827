"""Meta-SGD: learned rates beside the start."""

import math

from absl import flags

from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.flags import FLAGS, names, one_of
from experiments.few_shot.inner import ADAPTED, INNER_CLIP, PER_STEP, STEPS
from experiments.few_shot.parts import Learner

INITIAL_RATES = names(
    "initial_rates",
    ["0.005", "0.1"],
    "The least and the greatest of the inner rates that meta_sgd starts from.",
)
RATE_PER = one_of(
    "rate_per",
    "parameter",
    ["parameter", "leaf", "model"],
    "What meta_sgd learns a rate for: each number, each weight matrix or bias, or all.",
)


@flags.validator(
    INITIAL_RATES.name, "must be two positive rates, the least first", flag_values=FLAGS
)
def _range_of_rates(rates):
    try:
        low, high = map(float, rates)
    except ValueError:
        return False
    return 0 < low <= high < math.inf


def make(given, *, initial_rates, rate_per, per_step, inner_clip):
    import metajax as mj

    return mj.meta_sgd(
        given.model,
        given.loss,
        given.num_steps,
        initial_rates=tuple(map(float, initial_rates)),
        rate_per=rate_per,
        per_step="rates" in per_step,
        clip=inner_clip,
        adjoint=given.adjoint,
    )


LEARNER = Learner(
    "maml with inner rates that are learned, too",
    make,
    (INITIAL_RATES, RATE_PER, PER_STEP, INNER_CLIP),
    also=(*STEPS, ADAPTED, ADJOINT),
    adjoint="unroll",
    moves=True,
    needs=((lambda f: set(f.per_step) <= {"rates"}, "--per_step lists rates"),),
)
