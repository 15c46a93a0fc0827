"""FC100: CIFAR-100's classes, divided by superclass."""

from experiments.few_shot.data.raw import IMAGES
from experiments.few_shot.data.tasks import CLASSES, DATA_DIR, of_each_split
from experiments.few_shot.parts import Data


def make(*, data_dir):
    import metajax as mj

    return of_each_split(mj.data.fc100, data_dir=data_dir)


DATA = Data(
    "the same, divided by superclass, so that they differ more",
    make,
    CLASSES,
    IMAGES,
    (DATA_DIR,),
    images=True,
)
