"""Convolutions along a text."""

from experiments.door import Part
from experiments.few_shot.data.encoding import VOCABULARY
from experiments.few_shot.models.shared import WIDTH


def make(problem, outputs, *, vocabulary, width):
    import metajax as mj

    del problem
    return mj.models.text_cnn(vocabulary, outputs, width=width)


MODEL = Part("convolutions along words, for text", make, (VOCABULARY, WIDTH))
