"""Own images, in one folder a class."""

from experiments.door import Part
from experiments.few_shot.data.own import CLASS_SPLIT, DATA_PATH, class_splits
from experiments.few_shot.data.raw import read_images
from experiments.few_shot.data.tasks import CLASSES
from experiments.few_shot.flags import integer, text
from experiments.few_shot.parts import Data

IMAGE_SIZE = integer("image_size", 84, "Size that your own images are resized to.", 1)
BACKGROUND = text(
    "background", "white", "Colour that shows where your own images are transparent."
)


def make(*, data_path, class_split, image_size, background):
    import metajax as mj

    data = mj.data.from_folder(data_path, size=image_size, background=background)
    return class_splits(data, class_split)


DATA = Data(
    "your own images, one folder a class",
    make,
    CLASSES,
    Part("images", read_images, (BACKGROUND,)),
    (DATA_PATH, CLASS_SPLIT, IMAGE_SIZE, BACKGROUND),
    images=True,
)
