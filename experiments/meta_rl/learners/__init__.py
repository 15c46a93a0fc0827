"""The learners, one a file: their flags, how they are built and measured."""

from experiments.defining import gathered

NAMES = ("rl2", "maml", "fomaml", "dpt", "distillation")
LEARNERS = gathered(__name__, "LEARNER", NAMES)
