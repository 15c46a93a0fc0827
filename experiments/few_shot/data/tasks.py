"""Few-shot tasks from what data sets have, and the flags that all of them read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from experiments.door import Part
from experiments.few_shot.flags import (
    FLAGS,
    integer,
    names,
    one_of,
    refuse,
    switch,
    text,
)
from experiments.few_shot.parts import Problem

if TYPE_CHECKING:
    from metajax.data import ClassArrays

DATA_DIR = text(
    "data_dir", None, "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default."
)
WAYS = integer("ways", 5, "Classes a task.", 2)
SHOTS = integer("shots", 1, "Support examples a class, or points.", 1)
QUERIES = integer("queries", 1, "Query examples a class, or points.", 1)
EVAL_WAYS = integer("eval_ways", None, "Ways in evaluation; --ways if not set.", 2)
EVAL_SHOTS = integer("eval_shots", None, "Shots in evaluation; --shots if not set.", 1)
EVAL_QUERIES = integer("eval_queries", None, "Likewise for --queries.", 1)
SIZES = (SHOTS, QUERIES, EVAL_SHOTS, EVAL_QUERIES)
QUARTER_TURNS = switch(
    "quarter_turns", False, "Turn each class by a multiple of 90 degrees."
)
AUGMENT = switch(
    "augment", False, "Mirror and move each image of a task at random, in training."
)
WITHIN_GROUPS = switch(
    "within_groups",
    False,
    "Draw all classes of a task from one group: an alphabet of Omniglot, a domain of "
    "CLINC150, or what comes before a slash in names of your own.",
)
ROTATIONS = names(
    "rotations",
    [],
    "Turn each task by an angle: three ranges low:high in degrees, for training, "
    "validation and test.",
)
PERMUTE_LABELS = one_of(
    "permute_labels",
    "all",
    ["all", "eval", "none"],
    "Which tasks give the classes new labels; else all classes keep their own.",
)


CALIBRATE = switch(
    "calibrate",
    False,
    "Choose a temperature for the probabilities on the validation tasks.",
)


@flags.validator(
    ROTATIONS.name,
    "must be three ranges, such as 0:180,180:240,240:360",
    flag_values=FLAGS,
)
def _ranges(ranges):
    try:
        pairs = [tuple(map(float, r.split(":"))) for r in ranges]
    except ValueError:
        return False
    return len(pairs) in (0, 3) and all(len(p) == 2 and p[0] <= p[1] for p in pairs)


@refuse(
    "only one of --augment, --quarter_turns and --rotations can be set",
    *(AUGMENT, QUARTER_TURNS, ROTATIONS),
)
def _one_transform(values):
    return sum(map(bool, values.values())) <= 1


def _points(splits, *, shots, queries, eval_shots, eval_queries) -> Problem:
    import jax
    import jax.numpy as jnp

    import metajax as mj

    del splits
    train = mj.data.Sinusoid(shots, queries)
    test = mj.data.Sinusoid(eval_shots or shots, eval_queries or queries)
    point = jax.ShapeDtypeStruct((1,), jnp.float32)
    return Problem(train, test, test, point, 1, 1, mj.losses.squared_error)


POINTS = Part("Points of a function a task.", _points, SIZES)


def _classes(
    splits: list[ClassArrays] | None,
    *,
    ways: int,
    shots: int,
    queries: int,
    eval_ways: int | None,
    eval_shots: int | None,
    eval_queries: int | None,
    permute_labels: str,
    within_groups: bool,
    rotations: list[str],
    augment: bool,
    quarter_turns: bool,
    calibrate: bool,
) -> Problem:
    import jax

    import metajax as mj
    from metajax import calibration

    metrics = {"accuracy": mj.losses.accuracy}
    eval_metrics = {"brier": calibration.brier, "reliability": calibration.reliability}
    scored = mj.losses.cross_entropy, metrics, eval_metrics, calibrate
    if splits is None:
        return Problem(None, None, None, None, ways, eval_ways or ways, *scored)
    permuted = {"all": (True, True), "eval": (False, True), "none": (False, False)}
    train_permuted, eval_permuted = permuted[permute_labels]
    eval_ways = eval_ways or ways
    evaluated = eval_ways, eval_shots or shots, eval_queries or queries
    samplers = []
    for split, data, sizes, transform, permute in zip(
        mj.data.SPLITS,
        splits,
        ((ways, shots, queries), evaluated, evaluated),
        _transforms(rotations, augment, quarter_turns),
        (train_permuted, eval_permuted, eval_permuted),
    ):
        try:
            groups = data.groups if within_groups else None
            sampler = mj.data.FewShot(data, *sizes, transform, permute, groups)
        except ValueError as error:
            raise ValueError(f"The {split} classes: {error}") from error
        samplers.append(sampler)
    inputs = splits[0].inputs
    example = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
    return Problem(*samplers, example, ways, eval_ways, *scored)


def _transforms(rotations: list[str], augment: bool, quarter_turns: bool):
    """What happens to the images of a task, in training, validation and testing."""
    import metajax as mj

    if rotations:
        ranges = [map(float, angles.split(":")) for angles in rotations]
        return [mj.data.rotate(low, high) for low, high in ranges]
    if augment:
        return [mj.data.flips_and_crops(), None, None]
    return [mj.data.quarter_turns if quarter_turns else None] * 3


CLASSES = Part(
    "Some classes a task, with a few examples of each.",
    _classes,
    (
        *(WAYS, EVAL_WAYS, *SIZES, PERMUTE_LABELS, WITHIN_GROUPS),
        *(ROTATIONS, AUGMENT, QUARTER_TURNS, CALIBRATE),
    ),
)


def of_each_split(load, **arguments) -> list[ClassArrays]:
    """The training, validation and test classes of a data set that has its own split."""
    import metajax as mj

    return [load(split, **arguments) for split in mj.data.SPLITS]
