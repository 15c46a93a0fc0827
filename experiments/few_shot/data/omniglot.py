"""Omniglot: 1623 characters of 50 alphabets."""

from experiments.door import Part
from experiments.few_shot.data.raw import read_images
from experiments.few_shot.data.tasks import CLASSES, DATA_DIR, of_each_split
from experiments.few_shot.flags import one_of, switch
from experiments.few_shot.parts import Data

OMNIGLOT_CLASSES = one_of(
    "omniglot_classes",
    "finn",
    ["finn", "lake", "vinyals"],
    "Held-out characters of all alphabets, or held-out alphabets (two splits).",
)
OMNIGLOT_RESIZE = one_of(
    "omniglot_resize", "binary", ["binary", "grey"], "How 105 becomes 28 pixels."
)
ROTATED_CLASSES = switch(
    "rotated_classes",
    False,
    "Make four classes of each character of Omniglot, turned by multiples of 90 degrees.",
)


def make(*, omniglot_classes, omniglot_resize, rotated_classes, data_dir):
    import metajax as mj

    return of_each_split(
        mj.data.omniglot,
        classes=omniglot_classes,
        resize=omniglot_resize,
        rotated_classes=rotated_classes,
        data_dir=data_dir,
    )


def _read(example, *, omniglot_resize):
    resample = {"binary": "nearest", "grey": "lanczos"}[omniglot_resize]
    return read_images(example, resample=resample, inverted=True)


DATA = Data(
    "1623 characters of 50 alphabets, 20 drawings each",
    make,
    CLASSES,
    Part("images", _read, (OMNIGLOT_RESIZE,)),
    (OMNIGLOT_CLASSES, OMNIGLOT_RESIZE, ROTATED_CLASSES, DATA_DIR),
    images=True,
)
