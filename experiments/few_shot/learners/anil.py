"""ANIL: only the head is adapted."""

from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.inner import ADAPTED, OPTIMIZER, STEPS, descending
from experiments.few_shot.parts import Learner

LEARNER = Learner(
    "maml whose inner steps adapt the head alone",
    descending("anil"),
    also=(*STEPS, *OPTIMIZER, ADAPTED, ADJOINT),
    adjoint="unroll",
    rests=True,
    moves=True,
)
