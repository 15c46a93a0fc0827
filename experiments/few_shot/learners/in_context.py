"""Learning in context: a reader of the support examples."""

from experiments.few_shot.flags import one_of
from experiments.few_shot.parts import Learner
from experiments.few_shot.readers import READERS

READER = one_of(
    "reader",
    "transformer",
    list(READERS),
    "What reads the support examples of in_context: a transformer, to which they are a "
    "set, or SNAIL, in their order.",
)


def make(given, *, reader):
    import metajax as mj

    return mj.in_context(given.embedding, reader(given.outputs))


LEARNER = Learner(
    "a transformer, or SNAIL, that reads the support examples", make, (READER,)
)
