"""Relation networks."""

from experiments.few_shot.flags import names, widths
from experiments.few_shot.parts import Learner

RELATION = names(
    "relation", ["64"], "Widths of the hidden layers of relation_net's comparison."
)
widths(RELATION)


def make(given, *, relation):
    import metajax as mj

    compare = mj.models.mlp([*map(int, relation)], 1)
    return mj.relation_net(given.embedding, compare, given.outputs)


LEARNER = Learner(
    "a learned comparison with class means", make, (RELATION,), any_ways=True
)
