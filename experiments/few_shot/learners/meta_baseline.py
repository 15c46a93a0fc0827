"""Meta-baseline."""

from experiments.few_shot.learners.embedded import comparing

LEARNER = comparing("meta_baseline", "the class mean of nearest direction")
