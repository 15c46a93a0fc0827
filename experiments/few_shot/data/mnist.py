"""MNIST's ten digits."""

from experiments.few_shot.data.raw import IMAGES
from experiments.few_shot.data.tasks import CLASSES, DATA_DIR, of_each_split
from experiments.few_shot.parts import Data


def make(*, data_dir):
    import metajax as mj

    return of_each_split(mj.data.mnist, data_dir=data_dir)


DATA = Data(
    "handwritten digits; unseen images, not classes",
    make,
    CLASSES,
    IMAGES,
    (DATA_DIR,),
    images=True,
)
