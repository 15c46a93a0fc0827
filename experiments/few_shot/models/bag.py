"""Weights of the tokens that a text has."""

from experiments.door import Part
from experiments.few_shot.data.encoding import VOCABULARY
from experiments.few_shot.flags import integer

PROJECTION = integer(
    "projection", 0, "Width of a learned projection beside the weights of bag.", 0
)


def make(problem, outputs, *, vocabulary, projection):
    import metajax as mj

    # Where a run is used, its own weights take the place of these.
    rarity = problem.train and mj.data.idf(problem.train.data, vocabulary)
    return mj.models.bag(vocabulary, outputs, projection=projection, idf=rarity)


MODEL = Part("weighted tokens in any order, for text", make, (VOCABULARY, PROJECTION))
