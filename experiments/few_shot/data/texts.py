"""Own texts, in a CSV file."""

from experiments.few_shot.data.encoding import (
    ENCODING,
    TEXT_LENGTH,
    VOCABULARY,
    encoder,
)
from experiments.few_shot.data.own import CLASS_SPLIT, DATA_PATH, class_splits
from experiments.few_shot.data.tasks import CLASSES
from experiments.few_shot.parts import Data


def make(*, data_path, class_split, encoding, vocabulary, text_length):
    import metajax as mj

    encode = encoder(encoding, vocabulary)
    data = mj.data.from_csv(data_path, encode=encode, length=text_length)
    return class_splits(data, class_split)


DATA = Data(
    "your own texts, a CSV file of texts and labels",
    make,
    CLASSES,
    (DATA_PATH, CLASS_SPLIT, ENCODING, VOCABULARY, TEXT_LENGTH),
)
