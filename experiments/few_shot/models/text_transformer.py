"""A transformer along a text."""

from experiments.door import Part
from experiments.few_shot.data.encoding import VOCABULARY
from experiments.few_shot.models.shared import WIDTH


def make(problem, outputs, *, vocabulary, width):
    import metajax as mj

    (length,) = problem.inputs.shape
    return mj.models.text_transformer(vocabulary, outputs, width=width, length=length)


MODEL = Part("attention among words, for text", make, (VOCABULARY, WIDTH))
