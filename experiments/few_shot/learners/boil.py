"""BOIL: all but the head is adapted."""

from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.inner import ADAPTED, OPTIMIZER, STEPS, descending
from experiments.few_shot.parts import Learner

LEARNER = Learner(
    "maml whose inner steps adapt all but the head",
    descending("boil"),
    also=(*STEPS, *OPTIMIZER, ADAPTED, ADJOINT),
    adjoint="unroll",
    moves=True,
)
