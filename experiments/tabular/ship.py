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
    halves = {path: leaf.astype(np.float16) for path, leaf in found.items()}
    trees.save(out, halves, belongs_to)


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
