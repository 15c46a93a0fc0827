"""Prepares data sets, or checks prepared ones, and prints what is there.

    python scripts/prepare_data.py --dataset=omniglot,mnist --data_dir=DIR

Archives are downloaded; without a network, put them into DIR/downloads/manual.
"""

from functools import partial
import sys
import time

from absl import app, flags, logging
import jax.numpy as jnp

from metajax import data
from metajax.data.tfds_arrays import DataError

LOADERS = {
    "mnist": data.mnist,
    "omniglot": data.omniglot,
    "cifar100": data.cifar_fs,
    "clinc_oos": partial(data.clinc150, encode=data.words()),
}

_DATASET = flags.DEFINE_list("dataset", list(LOADERS), "Data sets, by comma.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Of TFDS data; else TFDS_DATA_DIR, else ~/tensorflow_datasets."
)

flags.register_validator(
    "dataset",
    lambda names: bool(names) and set(names) <= LOADERS.keys(),
    message=f"the data sets are {', '.join(LOADERS)}",
)


def describe(name: str, data_dir: str | None) -> None:
    """Loads every split of a data set and prints a line about it."""
    for split in ("train", "validation", "test"):
        start = time.perf_counter()
        classes = LOADERS[name](split, data_dir=data_dir)
        print(
            f"{name} {split}: {classes.num_classes} classes, {classes.counts.sum()} "
            f"examples {classes.inputs.shape[1:]} from {jnp.min(classes.inputs)} to "
            f"{jnp.max(classes.inputs)}, {time.perf_counter() - start:.1f} s",
            flush=True,
        )


def main(argv):
    if len(argv) > 1:
        sys.exit(f"Stray arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    for name in _DATASET.value:
        try:
            describe(name, _DATA_DIR.value)
        except DataError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    app.run(main)
