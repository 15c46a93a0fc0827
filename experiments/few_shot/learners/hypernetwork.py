"""A hypernetwork: from the support set to parameters."""

from experiments.few_shot.flags import integer, names
from experiments.few_shot.parts import Learner

CODE = integer("code", 32, "Numbers by which hypernetwork generates parameters.", 1)
GENERATED = names(
    "generated",
    ["*"],
    "Parameters beside the head that hypernetwork generates, as shell patterns such as "
    "Normalize_*; the others are meta-learned alone.",
)


def make(given, *, code, generated):
    import metajax as mj

    generator = mj.models.mlp([code], None)
    ways = given.outputs if given.classifies else None
    return mj.hypernetwork(
        given.model, given.embedding, generator, ways, generated=generated
    )


LEARNER = Learner(
    "a network that turns the support set into parameters", make, (CODE, GENERATED)
)
