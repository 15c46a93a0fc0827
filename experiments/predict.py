"""Learns new classes from a few examples of each, and predicts those of others.

python -m experiments.predict --workdir=DIR --support=FOLDER --query=FOLDER

The run in --workdir has learned to learn. By what it was trained on, examples are

images: --support has a folder of images for each class, --query a folder of images;
texts:  both are CSV files, of which --support has a column of labels beside the texts;
arrays: both are npz files of inputs, of which --support has labels, too.

It prints a table of what each query is taken for, and draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags, logging

from experiments import command

if TYPE_CHECKING:  # A wrong argument is told before JAX is there.
    from metajax.using import Learned

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "A finished run.", flag_values=FLAGS)
flags.DEFINE_string("support", None, "Examples with labels.", flag_values=FLAGS)
flags.DEFINE_string("query", None, "What is to be predicted.", flag_values=FLAGS)
flags.DEFINE_string(
    "picture",
    None,
    "Where the picture is written; predict.png in --workdir if not set.",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "strict",
    False,
    "Stop at what cannot be read, which else is left out with a warning.",
    flag_values=FLAGS,
)
flags.DEFINE_string("text_column", "text", "Of CSV files.", flag_values=FLAGS)
flags.DEFINE_string("label_column", "label", "Of CSV files.", flag_values=FLAGS)
flags.mark_flags_as_required(["workdir", "support", "query"], flag_values=FLAGS)


class Examples(NamedTuple):
    """Raw examples, what each is called, and their labels if they have some."""

    inputs: Sequence[Any]
    names: list[str]
    labels: Sequence[Any]


def predict() -> int:
    """Does what the flags say, and returns the exit code."""
    import metajax as mj

    try:
        run = mj.load(FLAGS.workdir)
        read = {"images": _images, "texts": _texts, "arrays": _arrays}[run.kind]
        support = read(run, Path(FLAGS.support), True)
        query = read(run, Path(FLAGS.query), False)
        task = run.adapt(support.inputs, support.labels)
        found = run.predict(task, query.inputs)
        picture = Path(FLAGS.picture or Path(FLAGS.workdir) / "predict.png")
        print("\n".join(_table(query.names, found)))
        _draw(run, support, query, found, picture)
        print(f"Drawn in {picture}.")
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _images(run: Learned, root: Path, labelled: bool) -> Examples:
    from metajax.data.folder import class_folders, images_below

    folders = class_folders(root) if labelled else {root: images_below(root)}
    pixels, names, labels = [], [], []
    for folder, files in folders.items():
        found = _read_each(run, files)
        if not found:
            raise ValueError(f"{folder} has no image that can be read.")
        pixels += found.values()
        names += [file.relative_to(root).as_posix() for file in found]
        labels += [folder.relative_to(root).as_posix()] * len(found)
    return Examples(pixels, names, labels)


def _read_each(run: Learned, files: list[Path]) -> dict[Path, Any]:
    """The pixels of those that are images, unless all must be."""
    found = {}
    for file in files:
        try:
            (found[file],) = run.read([file])
        except ValueError as error:
            if FLAGS.strict:
                raise
            logging.warning("Left out: %s", error)
    return found


def _texts(run: Learned, path: Path, labelled: bool) -> Examples:
    from metajax.data.csv_texts import read_columns

    def fault(values: tuple[str, ...]) -> str:
        try:
            run.read([values[0]])
            return ""
        except ValueError:
            return f", {values[0][:40]!r}, has no token"

    columns = (FLAGS.text_column, *[FLAGS.label_column] * labelled)
    skip = not FLAGS.strict
    rows = read_columns(path, columns, fault=fault, skip_bad_rows=skip)
    if not rows:
        raise ValueError(f"{path} has no row that can be read.")
    texts = [row[0] for row in rows]
    return Examples(texts, texts, [row[1] for row in rows] if labelled else [])


def _arrays(run: Learned, path: Path, labelled: bool) -> Examples:
    import numpy as np

    needed = ["inputs", *["labels"] * labelled]
    if not path.is_file():
        raise ValueError(f"{path} is no npz file of {' and '.join(needed)}.")
    with np.load(path) as file:
        missing = [name for name in needed if name not in file]
        if missing:
            raise ValueError(f"{path} lacks an array {missing[0]}.")
        inputs, labels = file["inputs"], file["labels"] if labelled else []
    return Examples(inputs, [f"example {i}" for i in range(len(inputs))], labels)


def _table(names: list[str], found) -> list[str]:
    width = max(map(len, [*names, "query"]))
    if found.probabilities is None:
        return [
            f"{name:{width}s}  {output.tolist()}"
            for name, output in zip(names, found.outputs)
        ]
    labels = list(map(str, found.labels))
    wide = max(map(len, [*labels, "class"]))
    lines = [f"{'query':{width}s}  {'class':{wide}s}  probability"]
    for name, label, each in zip(names, labels, found.probabilities):
        lines.append(f"{name:{width}s}  {label:{wide}s}  {100 * each.max():10.1f}%")
    return lines


def _draw(run: Learned, support: Examples, query: Examples, found, path: Path) -> None:
    from experiments.few_shot import predicted  # Matplotlib takes long to import.

    if run.kind == "texts":
        return predicted.bars(query.names, found, path)
    inputs, queries = run.read(support.inputs), run.read(query.inputs)
    if run.kind == "images":
        return predicted.images(inputs, support.labels, queries, found, path)
    if run.classifies:
        return predicted.bars(query.names, found, path)
    return predicted.values(inputs, support.labels, queries, found, path)


def main() -> None:
    """Does what the command line asks for."""
    command.start(FLAGS, predict, about=__doc__)


if __name__ == "__main__":
    main()
