"""A finished few-shot run, to be used on raw examples."""

from collections.abc import Mapping
import functools
from pathlib import Path
from typing import Any

import jax

from experiments import command
from experiments import door as doors
from experiments.few_shot import assembling, choosing, door
from experiments.few_shot.choosing import CHOICES
from experiments.few_shot.flags import FLAGS
from metajax import trees
from metajax.data.few_shot import scaled
from metajax.using import Learned


def load(workdir: Path, card: Mapping[str, Any]) -> Learned:
    """What a run has learned; see `metajax.load`.

    Args:
      workdir: the run's directory, or that of one of its seeds.
      card: what `assembling.card` wrote down there.

    Raises:
      ValueError: if the run is of another version, or its parameters cannot be read.
    """
    with command.as_recorded(FLAGS, workdir):
        picked = choosing.now()
        problem = doors.bound(picked.data.tasks, CHOICES)(None)
        example = jax.ShapeDtypeStruct(tuple(card["shape"]), card["dtype"])
        problem = problem._replace(inputs=example)
        recipe, num_steps = door.recipe(picked, problem), door.steps(picked).training
        encoder = doors.bound(picked.encoder, CHOICES)()
        raw = jax.ShapeDtypeStruct(*card["raw"]) if encoder else example
        changes = door.before_encoder(picked)
        read = doors.bound(picked.data.raw, CHOICES, **changes)(raw)

    @functools.cache
    def learner(ways: int):
        wide = problem._replace(eval_outputs=ways) if ways else problem
        return assembling.evaluated(recipe, wide, card["inner_steps"])

    def init():
        inputs = jax.numpy.zeros((problem.outputs, *example.shape), example.dtype)
        first = assembling.trained(recipe, problem, num_steps)
        return first.init(jax.random.key(0), scaled(inputs))

    like = jax.eval_shape(init)
    return Learned(
        learner=learner,
        meta=trees.load(workdir / "best.npz", like, recipe.belongs_to),
        model=recipe.model(problem.eval_outputs),
        kind=picked.data.raw.about,
        read=read,
        encoder=encoder,
        example=example,
        ways=None if picked.learner.any_ways else problem.eval_outputs,
        classes=tuple(card["classes"]),
        classifies=problem.classifies,
        keeps_labels=card["keeps_labels"],
        temperature=card["temperature"],
        transductive=card["transductive"],
    )
