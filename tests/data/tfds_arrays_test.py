import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile

import numpy as np
from PIL import Image
import pytest

from metajax.data import tfds_arrays
from metajax.data.images import open_image
from metajax.data.mnist import DATASET as MNIST
from metajax.data.omniglot import DATASET as OMNIGLOT
from metajax.data.tfds_arrays import DataError

SMALL = OMNIGLOT._replace(
    files={f"small{i}": [f"images_background_small{i}.zip"] for i in (1, 2)}
)
SHARD = "omniglot-small1.array_record-00000-of-00001"


def pixels(record):
    image = np.asarray(Image.open(io.BytesIO(record["image"])).convert("L"))
    return {"image": image, "label": record["label"]}


def labels(record):
    return {"label": record["label"], "alphabet": record["alphabet"]}


def load(data_dir, splits=("small1",), decode=labels, dataset=OMNIGLOT):
    return tfds_arrays.load(
        dataset, splits, decode, variant=decode.__name__, data_dir=data_dir
    )


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def fails(call, *words):
    """Calls and asserts that a DataError of one line with these words comes."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def must_not_read(*args):
    raise AssertionError("read although it was cached")


# Finding.


def test_argument_comes_before_environment(tmp_path, monkeypatch):
    for name in ("argument", "environment"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    found = tfds_arrays.find_data_dir(tmp_path / "argument")
    assert found == tmp_path / "argument"
    assert tfds_arrays.find_data_dir() == tmp_path / "environment"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds_arrays.find_data_dir() == tmp_path / "tensorflow_datasets"


def test_named_directory_must_be_there(tmp_path, monkeypatch):
    absent = str(tmp_path / "absent")
    fails(lambda: tfds_arrays.find_data_dir(absent), absent, "--data_dir")
    monkeypatch.setenv("TFDS_DATA_DIR", absent)
    fails(tfds_arrays.find_data_dir, absent, "TFDS_DATA_DIR")


def test_import_is_light():
    code = (
        "import sys, metajax.data.omniglot, metajax.data.mnist;"
        "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


# Reading and caching.


def test_reads_all_records_without_tensorflow(data_dir):
    arrays = load(data_dir, ("small1", "small2"))
    assert arrays["small1/label"].shape == (2720,)
    assert arrays["small2/label"].shape == (3120,)
    assert len(arrays["names/label"]) == 1623
    assert len(arrays["names/alphabet"]) == 50
    assert "tensorflow" not in sys.modules


def test_second_read_is_from_cache(copied, monkeypatch):
    first = load(copied)
    monkeypatch.setattr(tfds_arrays, "_read", must_not_read)
    assert_equal(load(copied), first)


def test_cache_follows_the_shards(copied):
    load(copied)
    shard = copied / "omniglot" / "3.0.0" / SHARD
    os.truncate(shard, shard.stat().st_size // 2)
    fails(lambda: load(copied), SHARD)


@pytest.mark.parametrize(
    "damage", ["empty", "garbage", "truncated", "flipped", "keyless"]
)
def test_broken_cache_is_rebuilt(copied, tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = load(copied)
    (cache,) = (tmp_path / "metajax").iterdir()
    content = cache.read_bytes()
    middle = content.index(b"label.npy") + 400  # Within the values of an array.
    flipped = bytes([content[middle] ^ 1])
    keyless = io.BytesIO()
    np.savez(keyless, **{"small1/label": np.arange(3)})
    cache.write_bytes(
        {
            "empty": b"",
            "garbage": b"no array at all",
            "truncated": content[: len(content) // 2],
            "flipped": content[:middle] + flipped + content[middle + 1 :],
            "keyless": keyless.getvalue(),
        }[damage]
    )
    assert_equal(load(copied), first)
    assert str(cache) in caplog.text
    caplog.clear()
    assert_equal(load(copied), first)
    assert not caplog.text


def test_nothing_is_written_beside_the_data(copied):
    load(copied)
    assert [path.name for path in copied.iterdir()] == ["omniglot"]


def test_reads_where_nothing_can_be_cached(copied, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(copied)["small1/label"].shape == (2720,)
    assert "cannot be cached" in caplog.text


# Faults of prepared data.


def truncate(directory):
    os.truncate(directory / SHARD, (directory / SHARD).stat().st_size // 2)


def flip(directory):
    content = bytearray((directory / SHARD).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (directory / SHARD).write_bytes(content)


def edit_info(directory, old, new, file="dataset_info.json"):
    info = directory / file
    text = info.read_text()
    assert old in text
    info.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (truncate, SHARD),
        (flip, SHARD),
        (lambda d: (d / SHARD).unlink(), SHARD),
        (lambda d: os.truncate(d / SHARD, 0), SHARD),
        (lambda d: edit_info(d, '"2720"', '"2700"'), SHARD),
        (lambda d: edit_info(d, '"2720"', '"2740"'), SHARD),
        (lambda d: edit_info(d, '"small1"', '"other"'), "small1"),
        (lambda d: (d / "features.json").unlink(), "features.json"),
        (lambda d: (d / "dataset_info.json").unlink(), "dataset_info.json"),
        (lambda d: os.truncate(d / "dataset_info.json", 99), "dataset_info.json"),
        (lambda d: edit_info(d, '"array_record"', '"tfrecord"'), "tfrecord"),
    ],
)
def test_damage_names_file_and_remedy(copied, damage, file):
    directory = copied / "omniglot" / "3.0.0"
    damage(directory)
    fails(lambda: load(copied), file, str(directory), "prepare")


def test_an_image_that_is_none_names_its_file(copied):
    def postscript(record):
        return {"image": open_image(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0"))}

    fails(lambda: load(copied, decode=postscript), SHARD, "none of PNG", "prepare")


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: lines[: len(lines) // 2],
        lambda lines: [*lines[:-1], lines[-1][:-1]],
        lambda lines: [],
        lambda lines: None,
    ],
)
@pytest.mark.parametrize("feature", ["label", "alphabet"])
def test_class_names_that_have_changed_are_refused(copied, feature, damage):
    """Swapped lines, which move classes between splits, even at the same size and time."""
    file = copied / "omniglot" / "3.0.0" / f"{feature}.labels.txt"
    load(copied)
    stat, lines = file.stat(), damage(file.read_text().splitlines())
    if lines is None:
        file.unlink()
    else:
        file.write_text("".join(f"{line}\n" for line in lines))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fails(lambda: load(copied), str(file.parent), "restore that file", "prepare")


FEATURES = "tensorflow_datasets.core.features.features_dict.FeaturesDict"


@pytest.mark.parametrize("module", ["not_ours", "tensorflow_datasets_not_ours"])
def test_no_module_is_imported_that_a_data_set_names(copied, monkeypatch, module):
    """In any of the forms in which TFDS takes the class of a feature."""
    (copied / f"{module}.py").write_text("")
    monkeypatch.syspath_prepend(copied)
    path, foreign = copied / "omniglot" / "3.0.0" / "features.json", f"{module}.Text"
    old = {"type": foreign, "content": {}}
    text = {"json": json.dumps({"x": old})}
    for features in (
        {"pythonClassName": foreign, "text": {}},
        {"python_class_name": foreign, "text": {}},
        old,
        {"type": FEATURES, "content": {"x": old}},
        {"pythonClassName": FEATURES, "jsonFeature": text},
        {"pythonClassName": FEATURES, "json_feature": text},
    ):
        path.write_text(json.dumps(features))
        fails(lambda: load(copied), "features.json", "prepare")
        assert module not in sys.modules


# Preparing.


@pytest.fixture
def fresh(tmp_path, archives):
    """An empty data directory whose manual downloads are all archives at hand."""
    (tmp_path / "fresh" / "downloads").mkdir(parents=True)
    (tmp_path / "fresh" / "downloads" / "manual").symlink_to(archives)
    return tmp_path / "fresh"


def test_prepares_omniglot_as_tfds_does(fresh, data_dir):
    given = load(data_dir, SMALL.files, pixels)
    names = {
        feature: load(data_dir)[f"names/{feature}"].tolist()
        for feature in ("label", "alphabet")
    }
    leftover = fresh / "omniglot" / "incomplete.ABCDEF_3.0.0"
    leftover.mkdir(parents=True)
    (leftover / SHARD).write_bytes(b"of a killed preparation")
    dataset = SMALL._replace(names=lambda *paths: names)
    assert_equal(load(fresh, SMALL.files, pixels, dataset), given)
    assert "tensorflow" not in sys.modules


def test_prepares_mnist_as_tfds_does(fresh, data_dir):
    given = load(data_dir, ("test",), pixels, MNIST)
    dataset = MNIST._replace(files={"test": MNIST.files["test"]})
    assert_equal(load(fresh, ("test",), pixels, dataset), given)


def test_omniglot_names_from_archives(data_dir, tmp_path):
    given = load(data_dir)
    for part, archive in enumerate(("background.zip", "evaluation.zip")):
        with zipfile.ZipFile(tmp_path / archive, "w") as zipped:
            for label in range(part, 1623, 2):
                alphabet, _, number = given["names/label"][label].rpartition("_")
                folder = f"images/{alphabet}/character{int(number) + 1:02}"
                zipped.writestr(f"{folder}/", "")
                zipped.writestr(f"{folder}/{label + 1:04}_01.png", b"")
    names = OMNIGLOT.names(tmp_path / "background.zip", tmp_path / "evaluation.zip")
    assert names["label"] == given["names/label"].tolist()
    assert names["alphabet"] == given["names/alphabet"].tolist()


def test_wrong_checksum(archives, tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for (file,) in SMALL.files.values():
        shutil.copyfile(archives / file, manual / file)
    wrong = manual / "images_background_small2.zip"
    wrong.write_bytes(wrong.read_bytes()[:-1])
    fails(lambda: load(tmp_path, dataset=SMALL), str(wrong), "checksum", "Replace")
    assert not (tmp_path / "omniglot" / "3.0.0").exists()


def test_absent_data_without_network(archives, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def hopeless(builder, **kwargs):
        raise AssertionError("TFDS was left to try")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", hopeless)
    monkeypatch.setattr(tfds_arrays, "_reachable", lambda url: False)
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    shutil.copyfile(
        archives / "images_background_small1.zip",
        manual / "images_background_small1.zip",
    )
    expected = [
        str(manual),
        "--data_dir",
        "images_evaluation.zip (6462886 bytes, sha256 1f61a8f3366785b057fc117d9228e78a",
        "images_background.zip (9464212 bytes, sha256 ad41ab679c8b5d90b271ef46be6987cc",
        "images_background_small2.zip (1580917 bytes",
    ]
    fails(lambda: load(tmp_path), *expected)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "small1" not in str(caught.value)


def test_files_that_tfds_has_downloaded_need_no_network(
    archives, tmp_path, monkeypatch, data_dir
):
    from tensorflow_datasets.core.download import resource
    from tensorflow_datasets.image_classification import omniglot

    monkeypatch.setattr(tfds_arrays, "_reachable", lambda url: False)
    downloads = tmp_path / "downloads" / "omniglot"
    downloads.mkdir(parents=True)
    for url, info in omniglot.Omniglot.url_infos.items():
        if info.filename == "images_background_small1.zip":
            cached = downloads / resource.get_dl_fname(url, info.checksum)
            shutil.copyfile(archives / info.filename, cached)
            record = {"dataset_names": ["omniglot"], "urls": [url]}
            cached.with_name(f"{cached.name}.INFO").write_text(json.dumps(record))
    given = load(data_dir)
    names = {f: given[f"names/{f}"].tolist() for f in ("label", "alphabet")}
    dataset = SMALL._replace(
        files={"small1": SMALL.files["small1"]}, names=lambda *paths: names
    )
    assert_equal(load(tmp_path, dataset=dataset), given)


def test_reachable(monkeypatch):
    for name in list(os.environ):
        if re.fullmatch("https?_proxy", name, re.IGNORECASE):
            monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"http://127.0.0.1:{port}/file.zip"
        assert tfds_arrays._reachable(url)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        assert tfds_arrays._reachable("https://host.invalid/file.zip")
    assert not tfds_arrays._reachable(url)
    assert not tfds_arrays._reachable("https://host.invalid/file.zip")


def test_reachable_gives_up_on_a_silent_network(monkeypatch):
    released = threading.Event()

    def hang(*args, **kwargs):
        released.wait()
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    assert not tfds_arrays._reachable("http://127.0.0.1/file.zip", seconds=0.01)
    released.set()
