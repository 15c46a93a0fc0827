"""Implicit MAML."""

from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.inner import (
    ADAPTED,
    OPTIMIZER,
    REGULARIZATION,
    STEPS,
)
from experiments.few_shot.parts import Learner


def make(given, *, regularization):
    import metajax as mj

    return mj.imaml(
        given.model,
        given.loss,
        given.optimizer,
        given.num_steps,
        regularization=regularization,
        adjoint=given.adjoint,
    )


LEARNER = Learner(
    "maml with a proximal term, differentiated where inner steps come to rest",
    make,
    (REGULARIZATION,),
    also=(*STEPS, *OPTIMIZER, ADAPTED, ADJOINT),
    adjoint="implicit",
    rests=True,
    moves=True,
)
