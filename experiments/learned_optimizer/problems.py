"""The trainings that the flags name."""

from functools import cache
from typing import Any, NamedTuple

import jax

import metajax as mj
from metajax.problems import Problem

_VOCABULARY, _LENGTH = 1024, 16  # Of sentences of words.


class Choice(NamedTuple):
    """What flags say of trainings; they say what each is."""

    problem: str
    data: str
    hidden: int
    layers: int
    max_hidden: int | None
    max_layers: int | None
    dim: int
    ways: int
    shots: int
    queries: int
    batch: int
    data_dir: str | None

    def changed(self, **changes: Any) -> "Choice":
        """The same but for what is not None; of one size if a size is among that."""
        given = {name: value for name, value in changes.items() if value is not None}
        if not given.keys().isdisjoint(("problem", "hidden", "layers")):
            given |= {"max_hidden": None, "max_layers": None}
        return self._replace(**given)


def make(choice: Choice, split: str) -> Problem:
    """The trainings of one split, whose classes or images no other has."""
    if choice.problem == "quadratic":
        return mj.problems.quadratics(choice.dim)
    if choice.problem == "rosenbrock":
        return mj.problems.rosenbrock(choice.dim)
    classes = _classes(choice.data, split, choice.data_dir)
    tasks = mj.data.FewShot(classes, choice.ways, choice.shots, choice.queries)
    if choice.max_hidden or choice.max_layers:
        return mj.problems.perceptrons(
            *(tasks, choice.ways, choice.batch),
            widths=(choice.hidden, choice.max_hidden or choice.hidden),
            depths=(choice.layers, choice.max_layers or choice.layers),
        )
    return mj.problems.networks(tasks, _model(choice), choice.batch)


def _model(choice: Choice) -> mj.Model:
    if choice.problem == "transformer":
        return mj.models.text_transformer(
            *(_VOCABULARY, choice.ways),
            width=choice.hidden,
            layers=choice.layers,
            length=_LENGTH,
        )
    if choice.problem == "convolution":
        model = mj.models.conv4(choice.ways, width=choice.hidden, normalization="none")
    else:
        model = mj.models.mlp([choice.hidden] * choice.layers, choice.ways)
    return on_halved(model)


@cache
def _classes(data: str, split: str, data_dir: str | None) -> mj.data.ClassArrays:
    where = {} if data == "glyphs" else {"data_dir": data_dir}
    if data == "clinc150":
        where |= {"encode": mj.data.words(_VOCABULARY), "length": _LENGTH}
    return getattr(mj.data, data)(split, **where)


def on_halved(model: mj.Model) -> mj.Model:
    """A model of images at half their size."""
    return mj.Model(
        lambda key, images: model.init(key, _halved(images)),
        lambda params, images: model.apply(params, _halved(images)),
    )


def _halved(images: jax.Array) -> jax.Array:
    number, height, width, channels = images.shape
    squares = images.reshape(number, height // 2, 2, width // 2, 2, channels)
    return squares.mean(axis=(2, 4))
