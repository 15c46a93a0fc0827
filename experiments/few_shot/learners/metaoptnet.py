"""MetaOptNet."""

from experiments.few_shot.flags import one_of
from experiments.few_shot.inner import REGULARIZATION
from experiments.few_shot.parts import Learner

CONVEX_HEAD = one_of(
    "convex_head",
    "logistic",
    ["logistic", "svm"],
    "The classifier of metaoptnet; svm needs pip install 'metajax[svm]'.",
)


def make(given, *, regularization, convex_head):
    import metajax as mj

    return mj.metaoptnet(
        given.embedding,
        given.outputs,
        regularization=regularization,
        head=convex_head,
    )


LEARNER = Learner(
    "a convex classifier on a learned embedding",
    make,
    (REGULARIZATION, CONVEX_HEAD),
    any_ways=True,
)
