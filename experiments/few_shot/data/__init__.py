"""The data sets, one a file: their flags, and how they are read."""

from experiments.defining import gathered

NAMES = (
    "sinusoid",
    "glyphs",
    "omniglot",
    "mnist",
    "cifar_fs",
    "fc100",
    "clinc150",
    "folder",
    "arrays",
    "texts",
)
DATA = gathered(__name__, "DATA", NAMES)
