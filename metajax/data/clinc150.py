"""CLINC150 (Larson et al., 2019): 150 intents of what is said to an assistant."""

from collections.abc import Iterator
import csv
import io
import os
from typing import Literal
import zipfile

import numpy as np

from metajax.data import tfds_arrays
from metajax.data.class_arrays import ClassArrays, by_name
from metajax.data.class_lists import class_list
from metajax.data.text import Encode, from_texts

_FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
_OUT_OF_SCOPE = {
    f"{split}_oos": file.replace(".", "_ood.") for split, file in _FILES.items()
}
_SENTENCES = {"train": 100, "validation": 20, "test": 30}  # Of each intent.


def _examples(split: str, path: str) -> Iterator[tuple[int, tfds_arrays.Record]]:
    member = (_FILES | _OUT_OF_SCOPE)[split]
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        rows = csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
        for index, row in enumerate(rows):
            numbers = {name: int(row[name]) for name in ("intent", "domain")}
            yield index, row | numbers


DATASET = tfds_arrays.Dataset(
    name="clinc_oos",
    version="0.1.0",
    builder="tensorflow_datasets.text.clinc_oos:ClincOOS",
    files={split: ["clinc_oos.zip"] for split in _FILES | _OUT_OF_SCOPE},
    examples=_examples,
)


def clinc150(
    split: Literal["train", "validation", "test"],
    *,
    encode: Encode,
    fold: Literal["01", "02", "03", "04", "05", "domain"] = "01",
    length: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> ClassArrays:
    """CLINC150's intents of one split, without its out-of-scope sentences.

    Args:
      split: which intents.
      encode: from a sentence to its ids, such as `words()` or `ngrams()`.
      fold: "01" to "05" deal the intents at random into 50, 50 and 50; "domain" deals
        the ten domains into five, two and three, so that no test intent is of a domain
        met in training: 75, 30 and 45 intents.
      length: ids kept of a sentence; as many as the longest has, if None.
      data_dir: of the TFDS data; see `tfds_arrays.find_data_dir`.

    Returns:
      Classes of 150 sentences, `[examples, length]`, int32, named "domain/intent":
      CLINC150's own training, validation and test sentences together.

    Raises:
      DataError: if the data is absent or damaged.
      ValueError: if an argument is not one of its choices.

    Example:
      >>> data = clinc150("test", encode=words())  # doctest: +SKIP
      >>> data.names[0], data.inputs.shape  # doctest: +SKIP
      ('small_talk/fun_fact', (7500, 28))

    Source:
      Larson et al. 2019 (arXiv 1909.02027); the five folds are those of Dopierre et al.
      2021 (arXiv 2105.12995), the split by domain is our own, dealt by a shuffle.
    """
    folds = ("01", "02", "03", "04", "05", "domain")
    if fold not in folds:
        raise ValueError(f"clinc150 has no fold {fold!r}: {', '.join(folds)}.")
    chosen = class_list(f"clinc150_{fold}", split)
    arrays = tfds_arrays.load(
        DATASET, tuple(_FILES), _decode, variant="text", data_dir=data_dir
    )
    texts, intents, domains = (
        np.concatenate([arrays[f"{part}/{feature}"] for part in _FILES])
        for feature in ("text", "intent_name", "domain_name")
    )
    _check(intents, domains)
    kept = np.isin(intents, chosen)
    labels = [f"{d}/{i}" for d, i in zip(domains[kept], intents[kept])]
    data = from_texts(texts[kept].tolist(), labels, encode=encode, length=length)
    named = {name.partition("/")[2]: name for name in data.names}
    return by_name(data, [named[intent] for intent in chosen])


def _decode(record: tfds_arrays.Record) -> tfds_arrays.Record:
    features = ("text", "intent_name", "domain_name")
    return {feature: np.array(record[feature].decode()) for feature in features}


def _check(intents: np.ndarray, domains: np.ndarray) -> None:
    counts = np.unique(intents, return_counts=True)[1]
    if len(counts) != 150 or (counts != 150).any() or len(np.unique(domains)) != 10:
        raise tfds_arrays.DataError(
            "CLINC150 must have 150 sentences of each of 150 intents in 10 domains: this "
            f"data has {counts.min()} to {counts.max()} of {len(counts)} in "
            f"{len(np.unique(domains))}; prepare it anew."
        )
