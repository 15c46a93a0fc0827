"""Runs what `python -m experiments.export` has written, without metajax.

    python run_export.py FILE

Needs `pip install jax flatbuffers`, and nothing else.
"""

import json
import sys
import zipfile

import jax
from jax import export
import numpy as np

with zipfile.ZipFile(sys.argv[1]) as file:
    card = json.loads(file.read("card.json"))
    adapt, predict = (
        export.deserialize(bytearray(file.read(name))) for name in ("adapt", "predict")
    )

# Put your own in their place: inputs as the card says, labels from 0; -1 is padding.
random = np.random.default_rng(0)
shape, dtype = card["shape"], np.dtype(card["dtype"])
inputs = random.integers(0, 2, (card["examples"], *shape)).astype(dtype)
labels = np.arange(card["examples"], dtype=np.int32) % card["outputs"]
queries = random.integers(0, 2, (3, *shape)).astype(dtype)

task = adapt.call(inputs, labels)
print(jax.device_get(predict.call(task, queries)).round(3))
