"""Meta-curvature: inner gradients times learned matrices."""

from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.inner import ADAPTED, OPTIMIZER, STEPS, descending
from experiments.few_shot.parts import Learner

LEARNER = Learner(
    "maml whose inner gradients are multiplied by learned matrices",
    descending("meta_curvature"),
    also=(*STEPS, *OPTIMIZER, ADAPTED, ADJOINT),
    adjoint="unroll",
    moves=True,
)
