"""First-order MAML."""

from experiments.few_shot.inner import OPTIMIZER, STEPS
from experiments.few_shot.parts import Learner


def make(given):
    import metajax as mj

    return mj.fomaml(given.model, given.loss, given.optimizer, given.num_steps)


LEARNER = Learner(
    "maml without second derivatives", make, also=(*STEPS, *OPTIMIZER), moves=True
)
