"""Own texts, in a CSV file."""

from experiments.few_shot.data.encoding import (
    ENCODING,
    TEXT_LENGTH,
    VOCABULARY,
    tokens,
)
from experiments.few_shot.data.own import CLASS_SPLIT, DATA_PATH, class_splits
from experiments.few_shot.data.raw import TEXTS
from experiments.few_shot.data.tasks import CLASSES
from experiments.few_shot.flags import switch, text
from experiments.few_shot.parts import Data

TEXT_COLUMN = text("text_column", "text", "The column of your CSV file with texts.")
LABEL_COLUMN = text("label_column", "label", "Its column with labels.")
SKIP_BAD_ROWS = switch(
    "skip_bad_rows", False, "Leave out rows that are no text with a label."
)


def make(
    *,
    data_path,
    class_split,
    encoding,
    vocabulary,
    text_length,
    text_column,
    label_column,
    skip_bad_rows,
):
    import metajax as mj

    data = mj.data.from_csv(
        data_path,
        encode=tokens(encoding, vocabulary),
        length=text_length,
        text_column=text_column,
        label_column=label_column,
        skip_bad_rows=skip_bad_rows,
    )
    return class_splits(data, class_split)


DATA = Data(
    "your own texts, a CSV file of texts and labels",
    make,
    CLASSES,
    TEXTS,
    (
        *(DATA_PATH, CLASS_SPLIT, ENCODING, VOCABULARY, TEXT_LENGTH),
        *(TEXT_COLUMN, LABEL_COLUMN, SKIP_BAD_ROWS),
    ),
)
