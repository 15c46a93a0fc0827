import sys

import jax
import numpy as np
import pytest

from metajax.data import tfds_arrays
from metajax.data.class_lists import SPLITS, class_list
from metajax.data.clinc150 import DATASET, _check, _decode, clinc150
from metajax.data.few_shot import FewShot
from metajax.data.text import words
from metajax.data.tfds_arrays import DataError

FOLDS = {f"0{i}": (50, 50, 50) for i in range(1, 6)} | {"domain": (75, 30, 45)}
ENCODE = words(2**20)


@pytest.mark.parametrize("fold", FOLDS)
def test_folds_deal_out_all_intents(fold):
    parts = [class_list(f"clinc150_{fold}", split) for split in SPLITS]
    assert tuple(map(len, parts)) == FOLDS[fold]
    dealt = sum(parts, [])
    assert len(set(dealt)) == 150
    assert sorted(dealt) == sorted(
        sum((class_list("clinc150_01", s) for s in SPLITS), [])
    )


def test_sentences_are_those_of_the_intent(data_dir):
    data = clinc150("test", encode=ENCODE, fold="02", data_dir=data_dir)
    assert [name.partition("/")[2] for name in data.names] == class_list(
        "clinc150_02", "test"
    )
    assert data.inputs.shape[0] == 7500 and data.inputs.dtype == np.int32
    assert (data.counts == 150).all()
    ids = np.asarray(data.inputs)
    for name, word in (("utility/flip_coin", "coin"), ("dining/calories", "calories")):
        sentences = ids[data.rows[data.names.index(name)]]
        assert (sentences == ENCODE(word)).any(axis=1).mean() > 0.3, name


def test_domains_of_test_intents_are_not_met_in_training(data_dir):
    domains = [
        {
            name.partition("/")[0]
            for name in clinc150(
                s, encode=ENCODE, fold="domain", data_dir=data_dir
            ).names
        }
        for s in SPLITS
    ]
    assert list(map(len, domains)) == [5, 2, 3]
    assert len(set.union(*domains)) == 10


def test_tasks_are_ids(data_dir):
    data = clinc150("validation", encode=words(50), length=12, data_dir=data_dir)
    task = jax.jit(lambda s, key: s(key))(FewShot(data, 5, 1, 2), jax.random.key(0))
    assert task.support.inputs.shape == (5, 12)
    assert task.query.inputs.dtype == np.int32
    assert 0 <= task.query.inputs.min() and 2 < task.query.inputs.max() < 50


def test_prepares_as_tfds_does(data_dir, archives, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "manual").symlink_to(archives)
    dataset = DATASET._replace(
        files={s: DATASET.files[s] for s in ("validation", "validation_oos")}
    )

    def load(data_dir):
        return tfds_arrays.load(
            dataset, dataset.files, _decode, variant="text", data_dir=data_dir
        )

    ours, given = load(tmp_path), load(data_dir)
    assert ours.keys() == given.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, given[name])
    assert ours["validation/text"].shape == (3000,)
    assert set(ours["validation_oos/intent_name"]) == {"oos"}
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"fold": "06"}, "no fold '06': 01, 02, 03, 04, 05, domain"),
        ({"split": "valid"}, "no split 'valid': train, validation or test"),
    ],
)
def test_unknown_choice(wrong, message, tmp_path):
    arguments = {"split": "train", "encode": ENCODE, "data_dir": tmp_path} | wrong
    with pytest.raises(ValueError, match=message):
        clinc150(**arguments)


def test_other_data_is_refused():
    intents, domains = np.arange(22500) % 150, np.arange(22500) % 10
    _check(intents, domains)
    with pytest.raises(DataError, match="149 to 150 of 150 in 10; prepare it anew"):
        _check(intents[1:], domains[1:])
    with pytest.raises(DataError, match="150 to 150 of 150 in 1;"):
        _check(intents, 0 * domains)
