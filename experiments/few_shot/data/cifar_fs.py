"""CIFAR-FS: CIFAR-100's classes, divided at random."""

from experiments.few_shot.data.raw import IMAGES
from experiments.few_shot.data.tasks import CLASSES, DATA_DIR, of_each_split
from experiments.few_shot.parts import Data


def make(*, data_dir):
    import metajax as mj

    return of_each_split(mj.data.cifar_fs, data_dir=data_dir)


DATA = Data(
    "100 classes of 32 x 32 colour images, divided at random",
    make,
    CLASSES,
    IMAGES,
    (DATA_DIR,),
    images=True,
)
