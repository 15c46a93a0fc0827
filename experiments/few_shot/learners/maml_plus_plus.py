"""MAML++: rates and normalisation of each step, and the loss after each."""

from experiments.door import Part
from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.flags import integer
from experiments.few_shot.inner import (
    ADAPTED,
    INNER_CLIP,
    INNER_RATE,
    PER_STEP,
    STEPS,
)
from experiments.few_shot.parts import Learner

MULTI_STEP_LOSS = integer(
    "multi_step_loss",
    0,
    "Outer steps in which maml_plus_plus counts the loss after every inner step, less "
    "and less; 0 for none.",
    0,
)


def make(given, *, inner_rate, inner_clip, per_step, every_step=False):
    import metajax as mj

    return mj.maml_plus_plus(
        given.model,
        given.loss,
        given.num_steps,
        rate=inner_rate,
        clip=inner_clip,
        learn_rates="rates" in per_step,
        normalization="Normalize_*" if "normalization" in per_step else None,
        every_step=every_step,
        adjoint=given.adjoint,
    )


def annealed(step, num_steps, *, multi_step_loss):
    import metajax as mj

    if not multi_step_loss:
        return None
    return mj.step_weights(step, num_steps, multi_step_loss)


def _per_step(flags) -> bool:
    return set(flags.per_step) <= {"rates", "normalization"}


def _can_weigh(flags) -> bool:
    return not flags.multi_step_loss or (
        flags.inner_steps > 0 and flags.estimator != "displacement"
    )


LEARNER = Learner(
    "maml with rates and normalisation of each step, and a loss after each",
    make,
    (INNER_RATE, INNER_CLIP, PER_STEP),
    also=(*STEPS, ADAPTED, ADJOINT),
    adjoint="unroll",
    moves=True,
    needs=(
        (_per_step, "--per_step lists rates and normalization"),
        (
            _can_weigh,
            "--multi_step_loss is for inner steps, not --estimator=displacement",
        ),
    ),
    step_weights=Part("annealed", annealed, (MULTI_STEP_LOSS,)),
)
