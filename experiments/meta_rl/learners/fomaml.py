"""First-order MAML: policy gradients adapt, their derivative is left out."""

from functools import partial

from experiments.door import Part
from experiments.meta_rl.learners import maml

LEARNER = Part(
    "maml without second derivatives", partial(maml.make, first_order=True), maml.READS
)
