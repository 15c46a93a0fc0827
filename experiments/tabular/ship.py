"""Makes of a finished run the parameters that `mj.tabular` brings, in half precision.

python -m experiments.tabular.ship DIR metajax/tabular/classes.npz
"""

import json
from pathlib import Path
import sys

import numpy as np

from metajax import trees


def ship(run: Path, out: Path) -> None:
    """Writes `best.npz` of a run as a file of float16."""
    with np.load(run / "best.npz") as file:
        found = dict(file)
    belongs_to = json.loads(found.pop("belongs_to.json"))
    leaves = {name: leaf.astype(np.float16) for name, leaf in found.items()}
    trees.save(out, nested(leaves), belongs_to)


def nested(leaves: dict[str, np.ndarray]) -> dict:
    """Leaves by their paths as a tree whose leaves have these paths."""
    tree = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = leaf
    return tree


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
