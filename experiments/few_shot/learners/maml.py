"""MAML: a start from which a few inner steps reach far."""

from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.inner import ADAPTED, OPTIMIZER, STEPS, descending
from experiments.few_shot.parts import Learner

LEARNER = Learner(
    "a start for all parameters, from which inner steps adapt them",
    descending("maml"),
    also=(*STEPS, *OPTIMIZER, ADAPTED, ADJOINT),
    adjoint="unroll",
    moves=True,
)
