"""Drawn characters, which need no download."""

from experiments.few_shot.data.raw import IMAGES
from experiments.few_shot.data.tasks import CLASSES, of_each_split
from experiments.few_shot.parts import Data


def make():
    import metajax as mj

    return of_each_split(mj.data.glyphs)


DATA = Data(
    "characters drawn by strokes, no download", make, CLASSES, IMAGES, images=True
)
