"""CLINC150: what people ask an assistant, by intent."""

from experiments.few_shot.data.encoding import (
    ENCODING,
    TEXT_LENGTH,
    VOCABULARY,
    tokens,
)
from experiments.few_shot.data.raw import TEXTS
from experiments.few_shot.data.tasks import CLASSES, DATA_DIR, of_each_split
from experiments.few_shot.flags import one_of
from experiments.few_shot.parts import Data

CLINC_FOLD = one_of(
    "clinc_fold",
    "01",
    ["01", "02", "03", "04", "05", "domain"],
    "Which split of CLINC150's intents: one of five folds, or by domain.",
)


def make(*, clinc_fold, encoding, vocabulary, text_length, data_dir):
    import metajax as mj

    return of_each_split(
        mj.data.clinc150,
        fold=clinc_fold,
        encode=tokens(encoding, vocabulary),
        length=text_length,
        data_dir=data_dir,
    )


DATA = Data(
    "sentences of 150 intents",
    make,
    CLASSES,
    TEXTS,
    (CLINC_FOLD, ENCODING, VOCABULARY, TEXT_LENGTH, DATA_DIR),
)
