"""Prototypical networks."""

from experiments.few_shot.learners.embedded import comparing

LEARNER = comparing("protonet", "the nearest class mean in a learned embedding")
