"""The learners, one a file: their flags, what sets them apart, how they are built."""

from experiments.defining import gathered

NAMES = (
    "maml",
    "fomaml",
    "reptile",
    "anil",
    "boil",
    "meta_sgd",
    "meta_curvature",
    "cavia",
    "imaml",
    "maml_plus_plus",
    "warpgrad",
    "protonet",
    "matching_net",
    "relation_net",
    "r2d2",
    "metaoptnet",
    "meta_baseline",
    "in_context",
    "hypernetwork",
    "baseline",
)
LEARNERS = gathered(__name__, "LEARNER", NAMES)
