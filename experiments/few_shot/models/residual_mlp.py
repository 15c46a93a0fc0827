"""A perceptron beside its inputs."""

from experiments.door import Part
from experiments.few_shot.models.mlp import HIDDEN


def make(problem, outputs, *, hidden):
    import metajax as mj

    del problem
    return mj.models.residual_mlp([*map(int, hidden)], outputs)


MODEL = Part("features and what mlp adds to them, for encoders", make, (HIDDEN,))
