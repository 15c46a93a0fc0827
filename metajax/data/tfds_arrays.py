"""TensorFlow Datasets without TensorFlow: prepared, checked, decoded once, then cached.

A data set is a `Dataset`; `load` reads it into arrays. What TFDS has prepared already is
read where it lies; the rest is prepared here, since TFDS itself needs TensorFlow to open
archives and to encode images.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
import socket
import tempfile
import threading
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

Record = Mapping[str, Any]  # One example: an image is still the bytes of its file.
Arrays = dict[str, np.ndarray]  # "split/feature" to [examples, ...], "names/feature".

_CACHE_FORMAT = 1  # To be raised when the same files would give other arrays.


class DataError(Exception):
    """Data that is absent, damaged or unreadable: one line with the file and remedy."""


def _no_names(*paths: str) -> dict[str, list[str]]:
    del paths
    return {}


class Dataset(NamedTuple):
    """What metajax needs to know about a data set of the TFDS catalogue.

    Attributes:
      name: its name in the catalogue.
      version: its version there, as in the path `<data_dir>/<name>/<version>`.
      builder: module and class of the catalogue's builder, which gives the features,
        the addresses and the checksums, as `"module:Class"`.
      files: the archives that each split is made of, by file name.
      examples: `(*paths) -> (key, example) ...`, reads the archives of one split;
        images are given as file objects of their PNG.
      names: `(*paths) -> {feature: names}`, from all archives, for class labels that
        the catalogue's builder does not name.
    """

    name: str
    version: str
    builder: str
    files: Mapping[str, Sequence[str]]
    examples: Callable[..., Iterator[tuple[Any, Record]]]
    names: Callable[..., Mapping[str, Sequence[str]]] = _no_names


def find_data_dir(data_dir: str | os.PathLike | None = None) -> Path:
    """The directory of the TFDS data: the argument, `TFDS_DATA_DIR`, or TFDS's default.

    Args:
      data_dir: where the data is or shall be; None for the environment's choice.

    Returns:
      The directory; TFDS's default need not exist yet.

    Raises:
      DataError: if a directory was named that is not there.
    """
    named = data_dir or os.environ.get("TFDS_DATA_DIR")
    path = Path(named or "~/tensorflow_datasets").expanduser()
    if named and not path.is_dir():
        raise DataError(
            f"Data directory {path} is not there: create it, or name another one by "
            f"--data_dir or TFDS_DATA_DIR."
        )
    return path


def load(
    dataset: Dataset,
    splits: Sequence[str],
    decode: Callable[[Record], Record],
    *,
    variant: str,
    data_dir: str | os.PathLike | None = None,
) -> Arrays:
    """Reads splits of a data set into arrays, preparing and caching them if need be.

    Args:
      dataset: what to read.
      splits: the splits to read, of those in `dataset.files`.
      decode: turns a record into the values to keep, of one shape for all records.
      variant: names what `splits` and `decode` make of the data, in the cache.
      data_dir: see `find_data_dir`.

    Returns:
      `"split/feature"` to an array `[examples, ...]` for each value that `decode` gives,
      and `"names/feature"` to the class names of each label feature.

    Raises:
      DataError: if the data is absent and cannot be had, or is damaged.
    """
    data_dir = find_data_dir(data_dir)
    directory = prepare(dataset, data_dir)
    key = _fingerprint(directory)
    file = f"{dataset.name}-{dataset.version}-{variant}.npz"
    caches = [data_dir / "metajax_cache" / file, _user_cache() / file]
    for cache in caches:
        arrays = _read_cache(cache, key)
        if arrays is not None:
            return arrays
    arrays = _read(directory, splits, decode)
    any(_write_cache(cache, key, arrays) for cache in caches)
    return arrays


def prepare(dataset: Dataset, data_dir: Path) -> Path:
    """Makes sure that a data set is prepared in a form readable without TensorFlow.

    Archives are taken from `<data_dir>/downloads/manual`, then from what TFDS has
    downloaded before, then from the network; TFDS checks their checksums.

    Args:
      dataset: what to prepare.
      data_dir: the directory of all TFDS data.

    Returns:
      The directory of the prepared data set.

    Raises:
      DataError: if that is impossible; see the message for the remedy.
    """
    directory = data_dir / dataset.name / dataset.version
    if directory.exists():
        _check_format(dataset, directory)
        return directory
    if not _writable(data_dir):
        raise DataError(
            f"{dataset.name} {dataset.version} is not prepared in {data_dir}, which "
            f"cannot be written to: name another directory by --data_dir."
        )
    _quiet_tfds()
    builder = _without_tensorflow(dataset)(
        data_dir=os.fspath(data_dir), file_format="array_record"
    )
    _check_obtainable(dataset, builder.url_infos, data_dir)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:  # TFDS raises many kinds, and all mean the same here.
        if (directory / "dataset_info.json").exists():
            return directory  # Another process was quicker.
        reason = " ".join(str(error).partition("To debug")[0].split())
        raise DataError(
            f"{dataset.name} could not be prepared in {data_dir}: {reason} Remove or "
            f"replace the file named here and try again."
        ) from error
    return directory


def _check_format(dataset: Dataset, directory: Path) -> None:
    info = directory / "dataset_info.json"
    try:
        file_format = json.loads(info.read_text()).get("fileFormat", "tfrecord")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{info} is missing or damaged: remove {directory} to prepare it anew."
        ) from error
    if file_format != "array_record":
        raise DataError(
            f"{dataset.name} in {directory} is stored as {file_format}, which needs "
            f"TensorFlow: move it away, or name another --data_dir, to have it prepared "
            f"as array_record."
        )


def _writable(directory: Path) -> bool:
    """Tries it out: permission bits tell nothing to root or on read-only mounts."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _quiet_tfds() -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()


def _without_tensorflow(dataset: Dataset) -> type:
    """The catalogue's builder, its archives read by `dataset` instead of TensorFlow."""
    import tensorflow_datasets as tfds

    module, name = dataset.builder.split(":")
    catalogue = getattr(importlib.import_module(module), name)

    class Builder(catalogue, skip_registration=True):
        VERSION = tfds.core.Version(dataset.version)
        url_infos = catalogue.url_infos

        def _split_generators(self, dl_manager):
            urls = {info.filename: url for url, info in self.url_infos.items()}
            needed = {file for files in dataset.files.values() for file in files}
            paths = dl_manager.download({file: urls[file] for file in needed})
            for feature, names in dataset.names(*sorted(paths.values())).items():
                self.info.features[feature].names = names
            return {
                split: self._generate_examples(*(paths[file] for file in files))
                for split, files in dataset.files.items()
            }

        def _generate_examples(self, *paths):
            return dataset.examples(*paths)

    Builder.name = dataset.name
    return Builder


def _check_obtainable(dataset: Dataset, url_infos: Mapping, data_dir: Path) -> None:
    """Raises at once for a file that is neither here nor in reach: TFDS tries minutes."""
    from tensorflow_datasets.core.download import resource

    downloads = data_dir / "downloads"
    needed = {file for files in dataset.files.values() for file in files}
    for url, info in sorted(url_infos.items()):
        cached = resource.get_dl_fname(url, info.checksum)
        places = [
            downloads / "manual" / info.filename,
            downloads / dataset.name / cached,
            downloads / cached,
        ]
        if info.filename not in needed or any(place.exists() for place in places):
            continue
        if not _reachable(url):
            raise DataError(
                f"{dataset.name} is not prepared in {data_dir} and there is no network "
                f"to {urllib.parse.urlsplit(url).hostname}: put {info.filename} "
                f"({int(info.size)} bytes, sha256 {info.checksum}) into "
                f"{downloads / 'manual'}, or name the directory of prepared data by "
                f"--data_dir."
            )


def _reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether the host of a url, or the proxy to it, accepts connections."""
    scheme = urllib.parse.urlsplit(url).scheme
    target = urllib.parse.urlsplit(urllib.request.getproxies().get(scheme, url))
    address = (target.hostname, target.port or {"http": 80}.get(target.scheme, 443))
    answers = []

    def connect():
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=seconds).close()
            answers.append(True)

    # In a thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def _read(
    directory: Path, splits: Sequence[str], decode: Callable[[Record], Record]
) -> Arrays:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(os.fspath(directory))
    except Exception as error:
        raise DataError(
            f"The description of the data in {directory} is damaged (features.json or "
            f"dataset_info.json): remove the directory to prepare it anew."
        ) from error
    arrays = {}
    for split in splits:
        if split not in builder.info.splits:
            raise DataError(
                f"{directory} has no split {split!r}: remove it to prepare it anew."
            )
        records = [decode(record) for record in _records(builder, split)]
        for feature in records[0]:
            arrays[f"{split}/{feature}"] = np.stack([r[feature] for r in records])
    for feature, kind in builder.info.features.items():
        if isinstance(kind, tfds.features.ClassLabel) and kind.names:
            arrays[f"names/{feature}"] = np.array(kind.names)
    return arrays


def _records(builder, split: str) -> Iterator[Record]:
    """All records of a split, shard by shard, so that a fault names its file."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    # Decoded by TFDS, a one-bit image is 0 and 1 or 0 and 255, as PIL or OpenCV is there.
    undecoded = {
        feature: tfds.decode.SkipDecoding()
        for feature, kind in builder.info.features.items()
        if isinstance(kind, tfds.features.Image)
    }
    info = builder.info.splits[split]
    for shard, (path, count) in enumerate(
        zip(info.filepaths, info.shard_lengths, strict=True)
    ):
        if not os.path.exists(path):
            raise _damaged(path, "is missing")
        try:
            held = array_record_module.ArrayRecordReader(os.fspath(path)).num_records()
            source = builder.as_data_source(
                f"{split}[{shard}shard]", decoders=undecoded
            )
            records = source.__getitems__(range(min(held, count) or count))
        except (RuntimeError, ValueError, IndexError) as error:
            raise _damaged(path, f"is damaged ({error})") from error
        if held != count:
            raise _damaged(path, f"has {held} examples; dataset_info.json says {count}")
        yield from records


def _damaged(path: os.PathLike, fault: str) -> DataError:
    fault = " ".join(fault.split())
    return DataError(
        f"{path} {fault}: restore the file, or remove {Path(path).parent} to prepare "
        f"it anew."
    )


def _user_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "metajax"


def _fingerprint(directory: Path) -> str:
    """Tells data that was prepared or replaced since from what a cache was made of."""
    files = sorted((f.name, f.stat()) for f in os.scandir(directory))
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    text = json.dumps([_CACHE_FORMAT, listing])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_cache(path: Path, key: str) -> Arrays | None:
    try:
        with np.load(path) as stored:
            if str(stored["key"]) != key:
                return None
            return {name: stored[name] for name in stored.files if name != "key"}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("The cache %s is damaged and will be rebuilt: %s", path, error)
        return None


def _write_cache(path: Path, key: str, arrays: Arrays) -> bool:
    """Writes to a file of its own first, so that no reader meets half a cache."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = file.name
            np.savez(file, key=np.array(key), **arrays)
        os.replace(temporary, path)
        return True
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return False
