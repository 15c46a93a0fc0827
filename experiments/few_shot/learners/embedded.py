"""Learners without inner steps: what most of them have in common."""

from experiments.few_shot.parts import Learner


def comparing(name: str, about: str) -> Learner:
    """A learner of an embedding alone.

    Args:
      name: its name in metajax.
      about: what it is.
    """

    def make(given):
        import metajax as mj

        return getattr(mj, name)(given.embedding, given.outputs)

    return Learner(about, make, any_ways=True)
