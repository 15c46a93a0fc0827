"""Own arrays, in an npz file."""

from experiments.few_shot.data.own import CLASS_SPLIT, DATA_PATH, class_splits
from experiments.few_shot.data.raw import ARRAYS
from experiments.few_shot.data.tasks import CLASSES
from experiments.few_shot.parts import Data


def make(*, data_path, class_split):
    import metajax as mj

    return class_splits(mj.data.from_npz(data_path), class_split)


DATA = Data(
    "your own arrays, an npz file of inputs and labels",
    make,
    CLASSES,
    ARRAYS,
    (DATA_PATH, CLASS_SPLIT),
)
