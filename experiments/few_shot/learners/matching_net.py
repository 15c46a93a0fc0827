"""Matching networks."""

from experiments.few_shot.flags import integer
from experiments.few_shot.parts import Learner

CONTEXT_STEPS = integer(
    "context_steps",
    0,
    "How often a query of matching_net reads the support set, for full context "
    "embeddings.",
    0,
)


def make(given, *, context_steps):
    import metajax as mj

    context = mj.models.full_context(context_steps) if context_steps else None
    return mj.matching_net(given.embedding, given.outputs, context=context)


LEARNER = Learner(
    "attention to each support example", make, (CONTEXT_STEPS,), any_ways=True
)
