"""R2D2."""

from experiments.few_shot.learners.embedded import comparing

LEARNER = comparing("r2d2", "ridge regression in closed form on a learned embedding")
