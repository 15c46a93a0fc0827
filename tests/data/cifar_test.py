import io
import tarfile

import numpy as np
from PIL import Image
import pytest

from metajax.data import cifar
from metajax.data.cifar import DATASET, cifar_fs, fc100
from metajax.data.class_lists import SPLITS, class_list
from metajax.data.tfds_arrays import DataError

SIZES = {"cifar_fs": (64, 16, 20), "fc100": (60, 20, 20)}
# One superclass a line, as the archive's page lists them; each is in one split of FC100.
SUPERCLASSES = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""


@pytest.mark.parametrize("name", SIZES)
def test_splits_deal_out_all_classes(name):
    parts = [class_list(name, split) for split in SPLITS]
    assert tuple(map(len, parts)) == SIZES[name]
    dealt = sorted(sum(parts, []))
    assert dealt == sorted(SUPERCLASSES.split()) and len(set(dealt)) == 100


def test_superclasses_are_kept_together_in_fc100_alone():
    for name, together in (("fc100", True), ("cifar_fs", False)):
        where = {c: split for split in SPLITS for c in class_list(name, split)}
        lines = SUPERCLASSES.strip().splitlines()
        splits = [{where[c] for c in line.split()} for line in lines]
        assert all(len(split) == 1 for split in splits) == together


def test_images_are_those_of_the_named_classes(data_dir):
    data = {name: call("test", data_dir=data_dir) for name, call in _CALLS.items()}
    for name, classes in data.items():
        assert classes.names == tuple(class_list(name, "test"))
        assert classes.inputs.shape == (12000, 32, 32, 3)
        assert classes.inputs.dtype == np.uint8
        assert (classes.counts == 600).all()
        assert sorted(classes.rows.ravel().tolist()) == list(range(12000))
    both = set(data["cifar_fs"].names) & set(data["fc100"].names)
    assert both  # The same images, whichever split they are reached by.
    for name in both:
        one, other = (
            np.asarray(d.inputs)[d.rows[d.names.index(name)]] for d in data.values()
        )
        np.testing.assert_array_equal(one, other)


_CALLS = {"cifar_fs": cifar_fs, "fc100": fc100}


def test_colours_come_red_first(data_dir):
    data = cifar_fs("train", data_dir=data_dir)
    images = np.asarray(data.inputs)
    means = {
        name: images[data.rows[data.names.index(name)]].mean(axis=(0, 1, 2))
        for name in ("orange", "cloud")
    }
    assert means["orange"][0] > means["orange"][2] + 50
    assert means["cloud"][2] > means["cloud"][0] + 10


def test_reads_the_official_archive(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 32, 32, 3), np.uint8)
    rows = [
        bytes([coarse, fine]) + image.transpose(2, 0, 1).tobytes()
        for coarse, fine, image in zip((4, 0, 19), (0, 99, 7), images)
    ]
    members = {
        "test.bin": b"".join(rows),
        "train.bin": b"",
        "coarse_label_names.txt": b"a\nb\n",
        "fine_label_names.txt": b"apple\naquarium_fish\n\n",
    }
    path = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert DATASET.archives == [path.name]
    keys, examples = zip(*DATASET.examples("test", path))
    assert keys == (0, 1, 2)
    assert [e["coarse_label"] for e in examples] == [4, 0, 19]
    assert [e["label"] for e in examples] == [0, 99, 7]
    assert examples[1]["id"] == "test_00001"
    for example, image in zip(examples, images):
        np.testing.assert_array_equal(Image.open(example["image"]), image)
    assert not list(DATASET.examples("train", path))
    names = {"coarse_label": ["a", "b"], "label": ["apple", "aquarium_fish"]}
    assert DATASET.names(path) == names


@pytest.mark.parametrize(
    "fault, message",
    [
        ({"image": slice(1, None)}, "599 to 600 of 100"),
        ({"image": (..., slice(2))}, r"\(32, 32, 2\)"),
        ({"scale": 2}, "from 0 to 127"),
        ({"names": 99}, "600 images .* prepare it anew"),
    ],
)
def test_other_data_is_refused(monkeypatch, fault, message):
    part = fault.get("image", slice(None))
    labels = np.arange(60000) % 100
    # A broadcast pixel, since 60000 images of zeros would take 180 MB.
    values = (np.arange(60000) % 2 * 255).astype(np.uint8) // fault.get("scale", 1)
    images = np.broadcast_to(values[:, None, None, None], (60000, 32, 32, 3))[part]
    names = [f"c{i}" for i in range(fault.get("names", 100))]
    with pytest.raises(DataError, match=message):
        cifar._check(images, labels[: len(images)], names)


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="fc100 has no split 'val': train, validation"):
        fc100("val", data_dir=tmp_path)
