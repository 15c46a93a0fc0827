"""Deployment: adaptation and prediction as programs that JAX alone runs."""

from collections.abc import Callable
import json
from pathlib import Path
import zipfile

import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np

from metajax import files, heads
from metajax.base import Batch, PyTree
from metajax.data.few_shot import scaled
from metajax.using import Learned

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    run: Learned, path: str | Path, *, shots: int, ways: int | None = None
) -> None:
    """Writes a run's adaptation and prediction to one file, as StableHLO.

    The file is a zip archive of two serialized programs, with the meta-parameters in
    them, and `card.json`, which says what they take:

        adapt:   inputs [examples, ...], labels int32[examples] -> task
        predict: task, inputs [queries, ...] -> probabilities float32[queries, ways]

    Examples are `ways * shots`; a label of -1 says that one is padding. Queries are any
    number. Inputs are as the data has them: images of uint8, ids of tokens; of a run with
    an encoder they are its features, and the encoder is not in the file. In regression
    values, float32[examples, outputs], are in the place of labels and of probabilities.

    Args:
      run: what is exported.
      path: the file.
      shots: support examples a class, or in regression in all.
      ways: classes a task; those of training if None.

    Raises:
      ValueError: if the run is not for so many ways, or cannot be exported.
      OSError: if the file cannot be written.

    Example:
      >>> export(load("runs/mine"), "mine.zip", shots=1)  # doctest: +SKIP
      >>> with zipfile.ZipFile("mine.zip") as file:  # doctest: +SKIP
      ...     read = lambda name: jax.export.deserialize(bytearray(file.read(name)))
      ...     adapt, predict = map(read, ("adapt", "predict"))
      >>> task = adapt.call(inputs, labels)  # doctest: +SKIP
      >>> probabilities = predict.call(task, queries)  # doctest: +SKIP
    """
    ways = _checked(run, shots, ways or run.ways)
    examples = shots * ways if run.classifies else shots
    programs = _programs(run, examples, ways)
    card = {
        "examples": examples,
        "outputs": ways,
        "shape": [*run.example.shape],
        "dtype": np.dtype(run.example.dtype).name,
        "encoder": run.encoder and run.encoder.name,
        "classifies": run.classifies,
        "calibrated": run.temperature is not None,
        "platforms": [*PLATFORMS],
        "jax": jax.__version__,
    }
    with files.whole(path) as whole, zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("card.json", json.dumps(card, indent=1) + "\n")
        for name, program in programs.items():
            archive.writestr(name, program)


def _checked(run: Learned, shots: int, ways: int | None) -> int:
    if not ways:
        raise ValueError("This learner takes any number of classes: say how many ways.")
    if shots < 1 or (run.classifies and ways < 2):
        raise ValueError(
            f"An export needs 2 ways and 1 shot at least: got {ways} and {shots}."
        )
    if run.ways and ways > run.ways:
        raise ValueError(
            f"This learner was trained for {run.ways} ways: export it for as many or "
            f"fewer, not {ways}."
        )
    return ways


def _programs(run: Learned, examples: int, ways: int) -> dict[str, bytes]:
    learner = run.learner(run.ways or ways)
    shape, dtype = run.example.shape, run.example.dtype
    inputs = jax.ShapeDtypeStruct((examples, *shape), dtype)
    targets = jax.ShapeDtypeStruct((examples, ways), jnp.float32)
    if run.classifies:
        targets = jax.ShapeDtypeStruct((examples,), jnp.int32)

    def adapted(inputs: jax.Array, targets: jax.Array):
        mask, counts = None, ()
        if run.classifies:
            mask = targets >= 0
            counts = jnp.sum(targets[:, None] == jnp.arange(ways)[None], axis=0)
        support = Batch(scaled(inputs), targets, mask)
        return learner.adapt(jax.random.key(0), run.meta, support), counts

    def adapt(inputs, targets):  # A program returns no types of metajax.
        return tuple(jax.tree.leaves(adapted(inputs, targets)))

    leaves, structure = jax.tree.flatten(jax.eval_shape(adapted, inputs, targets))

    def predict(task, inputs):
        task, counts = structure.unflatten(task)

        def outputs_of(inputs):
            return learner.predict(run.meta, task, inputs)

        if run.transductive:
            outputs = outputs_of(scaled(inputs))
        else:  # By itself a query has a shape that is known, unlike their number.
            outputs = jax.vmap(lambda x: outputs_of(x[None])[0])(scaled(inputs))
        if not run.classifies:
            return outputs
        return run.probabilities(heads.hide_absent(outputs[:, :ways], counts))

    (queries,) = jax_export.symbolic_shape("queries")
    query = jax.ShapeDtypeStruct((queries, *shape), dtype)
    return {
        "adapt": _program(adapt, inputs, targets),
        "predict": _program(predict, tuple(leaves), query),
    }


def _program(function: Callable, *arguments: PyTree) -> bytes:
    try:
        make = jax_export.export(jax.jit(function), platforms=PLATFORMS)
        return bytes(make(*arguments).serialize())
    except (NotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"This learner cannot be exported: {reason}") from error
