"""TensorFlow Datasets without TensorFlow: prepared, checked, decoded once, then cached.

A data set is a `Dataset`; `load` reads it into arrays. What TFDS has prepared is read
where it lies. What it has not is prepared here, by a builder that opens the archives
itself, since TFDS needs TensorFlow for that and for encoding images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import hashlib
import importlib
import io
import json
import os
from pathlib import Path
import socket
import threading
from typing import Any, NamedTuple
import urllib.parse
import urllib.request

import numpy as np
from PIL import Image

from metajax.data.cache import Arrays, cached

Record = Mapping[str, Any]  # One example: an image is still the bytes of its file.

_CACHE_FORMAT = 1  # To be raised when the same files would give other arrays.


class DataError(Exception):
    """Data that is absent, damaged or unreadable: one line with the file and remedy."""


class Dataset(NamedTuple):
    """What there is to know about a data set of the TFDS catalogue.

    Attributes:
      name: its name in the catalogue, as in the path `<data_dir>/<name>/<version>`.
      version: its version there.
      builder: the catalogue's builder, `"module:Class"`, for the features, addresses
        and checksums.
      files: the archives that each split is made of, by file name.
      examples: `(split, *paths) -> (key, example) ...`, reads one split from its
        archives; images are given as `as_png` makes them.
      names: `(*paths) -> {feature: names}`, reads all archives for the names of labels
        that the catalogue's builder leaves open.
      digests: label feature to the `names_digest` of its names, which are a file of
        their own: with two of its lines swapped, classes change places unnoticed.
    """

    name: str
    version: str
    builder: str
    files: Mapping[str, Sequence[str]]
    examples: Callable[..., Iterator[tuple[Any, Record]]]
    names: Callable[..., Mapping[str, Sequence[str]]] = lambda *paths: {}
    digests: Mapping[str, str] = {}

    @property
    def archives(self) -> list[str]:
        return sorted({file for files in self.files.values() for file in files})


def as_png(pixels: np.ndarray) -> io.BytesIO:
    """An image, `[height, width]` or `[height, width, 3]`, as the file of its PNG."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    png.seek(0)
    return png


def find_data_dir(data_dir: str | os.PathLike | None = None) -> Path:
    """The directory of TFDS data: the argument, else `TFDS_DATA_DIR`, else TFDS's own.

    Args:
      data_dir: the directory, or None.

    Returns:
      The directory; TFDS's own, `~/tensorflow_datasets`, need not be there yet.

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
      `"split/feature"` to an array `[examples, ...]` for each value of `decode`, and
      `"names/feature"` to the class names of each label feature.

    Raises:
      DataError: if the data is absent and cannot be had, or is damaged.
    """
    data_dir = find_data_dir(data_dir)
    directory = prepare(dataset, data_dir)
    return cached(
        f"{dataset.name}-{dataset.version}-{variant}",
        _fingerprint(directory, splits),
        lambda: _read(dataset, directory, splits, decode),
    )


def prepare(dataset: Dataset, data_dir: Path) -> Path:
    """Makes sure that a data set is prepared in a form readable without TensorFlow.

    Archives are taken from `<data_dir>/downloads/manual`, else from what TFDS has
    downloaded before, else from the network; TFDS verifies their checksums.

    Args:
      dataset: what to prepare.
      data_dir: the directory of all TFDS data.

    Returns:
      The directory of the prepared data set.

    Raises:
      DataError: if that is impossible.
    """
    directory = data_dir / dataset.name / dataset.version
    if directory.exists():
        _check_format(directory)
        return directory
    data_dir.mkdir(parents=True, exist_ok=True)
    if not os.access(data_dir, os.W_OK):
        raise DataError(
            f"{dataset.name} {dataset.version} is not prepared in {data_dir}, which "
            f"cannot be written to: name another directory by --data_dir."
        )
    builder = _without_tensorflow(dataset)(
        data_dir=os.fspath(data_dir), file_format="array_record"
    )
    _check_obtainable(dataset, builder.url_infos, data_dir)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:  # Network, disk, checksum: TFDS raises many kinds.
        if (directory / "dataset_info.json").exists():
            return directory  # Another process was quicker.
        reason = " ".join(str(error).partition("To debug")[0].split())
        if "wrong checksum" in reason:
            reason += " Replace that file by the original, or remove it."
        raise DataError(
            f"{dataset.name} cannot be prepared in {data_dir}: {reason}"
        ) from error
    return directory


def _check_format(directory: Path) -> None:
    info = directory / "dataset_info.json"
    try:
        file_format = json.loads(info.read_text()).get("fileFormat", "tfrecord")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{info} is missing or damaged: restore it, or remove {directory} to "
            f"prepare it anew."
        ) from error
    if file_format != "array_record":
        raise DataError(
            f"{directory} is in format {file_format}, which needs TensorFlow: move it "
            f"away, or name another --data_dir, to have it prepared as array_record."
        )


def _without_tensorflow(dataset: Dataset) -> type:
    """The catalogue's builder, its archives read by `dataset` instead of TensorFlow."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    module, name = dataset.builder.split(":")
    catalogue: Any = getattr(importlib.import_module(module), name)

    class Builder(  # pyright: ignore[reportGeneralTypeIssues]
        catalogue,
        skip_registration=True,  # pyright: ignore[reportCallIssue]
    ):
        VERSION = tfds.core.Version(dataset.version)
        url_infos = catalogue.url_infos

        def _split_generators(self, dl_manager):
            urls = {info.filename: url for url, info in self.url_infos.items()}
            paths = dl_manager.download({file: urls[file] for file in dataset.archives})
            for feature, names in dataset.names(*paths.values()).items():
                self.info.features[feature].names = names
            return {
                split: self._generate_examples(split, *map(paths.get, files))
                for split, files in dataset.files.items()
            }

        def _generate_examples(self, split, *paths):
            return dataset.examples(split, *paths)

    Builder.name = dataset.name
    return Builder


def _check_obtainable(dataset: Dataset, url_infos: Mapping, data_dir: Path) -> None:
    """Answers at once for what cannot be had, where TFDS would try for minutes."""
    from tensorflow_datasets.core.download import resource

    downloads = data_dir / "downloads"
    absent = {}
    for url, info in sorted(url_infos.items()):
        cached = resource.get_dl_fname(url, info.checksum)
        places = (f"manual/{info.filename}", f"{dataset.name}/{cached}", cached)
        if info.filename in dataset.archives and not any(
            (downloads / place).exists() for place in places
        ):
            absent[url] = (
                f"{info.filename} ({int(info.size)} bytes, sha256 {info.checksum})"
            )
    if absent and not _reachable(next(iter(absent))):
        raise DataError(
            f"{dataset.name} is not prepared in {data_dir} and cannot be downloaded from "
            f"{urllib.parse.urlsplit(next(iter(absent))).hostname}: name the directory "
            f"of prepared data by --data_dir, or put into {downloads / 'manual'} "
            f"{', '.join(absent.values())}."
        )


def _reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether the host of a url, or the proxy to it, accepts connections."""
    scheme = urllib.parse.urlsplit(url).scheme
    target = urllib.parse.urlsplit(urllib.request.getproxies().get(scheme, url))
    port = target.port or (80 if target.scheme == "http" else 443)
    answers = []

    def connect():
        with contextlib.suppress(OSError):
            socket.create_connection((target.hostname, port), timeout=seconds).close()
            answers.append(True)

    # In a thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def _read(
    dataset: Dataset,
    directory: Path,
    splits: Sequence[str],
    decode: Callable[[Record], Record],
) -> Arrays:
    import tensorflow_datasets as tfds

    try:
        _check_features(directory / "features.json")
        builder = tfds.builder_from_directory(os.fspath(directory))
        infos = [builder.info.splits[split] for split in splits]
    except Exception as error:
        raise _damaged(directory / "features.json", str(error)) from error
    arrays = {}
    for info in infos:
        records = list(_records(builder, info, decode))
        for feature in records[0]:
            values = np.stack([record[feature] for record in records])
            arrays[f"{info.name}/{feature}"] = values
    features: Any = builder.info.features
    for feature, kind in features.items():
        if isinstance(kind, tfds.features.ClassLabel) and kind.names:
            arrays[f"names/{feature}"] = np.array(kind.names)
    for feature, digest in dataset.digests.items():
        if names_digest(arrays.get(f"names/{feature}", [])) != digest:
            fault = f"its names are not those of {dataset.name} {dataset.version}"
            raise _damaged(directory / f"{feature}.labels.txt", fault)
    return arrays


def names_digest(names: Sequence[str]) -> str:
    """Tells class names in another order, or other ones; 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _check_features(path: Path) -> None:
    """Refuses modules of others, since TFDS imports whatever a class of features names.

    Features as text within the text could name some as well; no data set here has them.
    """

    def check(pairs: dict) -> None:
        named = [pairs.get(k) for k in ("pythonClassName", "python_class_name", "type")]
        for name in named:
            if isinstance(name, str) and not name.startswith("tensorflow_datasets."):
                raise ValueError(f"{name} is not of tensorflow_datasets")
        if pairs.keys() & {"jsonFeature", "json_feature"}:
            raise ValueError("features in a form that is not read here")

    json.loads(path.read_text("utf-8"), object_hook=check)


def _records(builder, info, decode: Callable[[Record], Record]) -> Iterator[Record]:
    """All records of a split, shard by shard, so that a fault names its file."""
    import tensorflow_datasets as tfds

    reading = importlib.import_module("array_record.python.array_record_module")
    # TFDS would decode a one-bit image to 0 and 1, or to 0 and 255 if it finds OpenCV.
    undecoded = {
        feature: tfds.decode.SkipDecoding()
        for feature, kind in builder.info.features.items()
        if isinstance(kind, tfds.features.Image)
    }
    for shard, count in enumerate(info.shard_lengths):
        path = info.filepaths[shard]
        try:
            held = reading.ArrayRecordReader(os.fspath(path)).num_records()
            source = builder.as_data_source(
                f"{info.name}[{shard}shard]", decoders=undecoded
            )
            stored = source.__getitems__(range(min(held, count) or count))
            records = [decode(record) for record in stored]
        except (RuntimeError, ValueError, IndexError) as error:
            raise _damaged(path, str(error)) from error
        if held != count:
            raise _damaged(path, f"{held} examples, {count} by dataset_info.json")
        yield from records


def _damaged(path: os.PathLike, fault: str) -> DataError:
    return DataError(
        f"{path} cannot be read ({' '.join(fault.split())}): restore that file, or "
        f"remove {Path(path).parent} to prepare it anew."
    )


def _fingerprint(directory: Path, splits: Sequence[str]) -> str:
    """Tells data that was prepared or replaced since from what a cache was made of."""
    listing = []
    for path in sorted(directory.iterdir()):
        stat = path.stat()
        text = path.suffix in (".json", ".txt")
        content = path.read_bytes().hex() if text else stat.st_mtime_ns
        listing.append((path.name, stat.st_size, content))
    text = json.dumps([_CACHE_FORMAT, list(splits), listing])
    return hashlib.sha256(text.encode()).hexdigest()
