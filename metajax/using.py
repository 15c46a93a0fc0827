"""A finished run, to be used: new classes are learned from a few raw examples of each."""

from collections.abc import Callable, Sequence
import dataclasses
from functools import partial
import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Adapted, Batch, Masked, MetaLearner, MetaParams, Model, PyTree
from metajax.data.class_arrays import as_labels
from metajax.data.few_shot import scaled
from metajax.data.numeric import as_numbers
from metajax.data.reading import Read
from metajax.encoders import Encoder, features

CARD = "card.json"  # In a run's directory: what is to be known to use it.
_QUERIES = 256  # So many are predicted at a time.

Label = int | str


class AdaptedTask(NamedTuple):
    """What a learner has made of the examples of one task.

    Attributes:
      adapted: what its `adapt` returned.
      classes: the labels there are, in the order of the outputs; none in regression.
      support: the examples, padded if there is room for more.
      ways: width of the outputs, at least the number of classes.
    """

    adapted: Adapted
    classes: tuple[Label, ...]
    support: Batch
    ways: int

    @property
    def num_examples(self) -> int:
        mask = self.support.mask
        return len(self.support.targets) if mask is None else int(mask.sum())


class Predictions(NamedTuple):
    """What is predicted of some inputs.

    Attributes:
      outputs: logits `[examples, classes]`, or in regression values `[examples, ...]`.
      probabilities: `[examples, classes]`; None in regression.
      classes: the labels of the columns; none in regression.
    """

    outputs: np.ndarray
    probabilities: np.ndarray | None
    classes: tuple[Label, ...]

    @property
    def labels(self) -> list[Label]:
        """The most probable class of each."""
        return [self.classes[i] for i in self.outputs.argmax(axis=1)]


@dataclasses.dataclass(frozen=True)
class Learned:
    """A meta-learner with what it has learned, for raw examples of new tasks.

    Attributes:
      learner: from the width of its outputs to the learner; the same for the same width.
      meta: its meta-parameters.
      model: the model within it.
      kind: what raw examples are: images, texts or arrays.
      read: from raw examples to inputs, as in training, before an encoder.
      example: shape and dtype of one input of the learner.
      ways: the width of its outputs, if it has parameters that depend on it.
      classes: the names of the classes that it was trained on; none in regression.
      classifies: whether targets are labels of classes.
      keeps_labels: whether labels are those of the training classes in every task.
      temperature: what logits are divided by, as it was chosen on validation tasks; None
        if probabilities are not calibrated.
      transductive: whether predictions depend on the inputs beside them.
      encoder: what turns what was read into the learner's inputs, if the run has one.

    Example:
      >>> run = load("runs/mine")  # doctest: +SKIP
      >>> task = run.adapt(["a.png", "b.png"], ["cat", "dog"])  # doctest: +SKIP
      >>> run.predict(task, ["c.png"]).labels  # doctest: +SKIP
      ['dog']
    """

    learner: Callable[[int], MetaLearner]
    meta: MetaParams
    model: Model
    kind: str
    read: Read
    example: jax.ShapeDtypeStruct
    ways: int | None
    classes: tuple[str, ...] = ()
    classifies: bool = True
    keeps_labels: bool = False
    temperature: float | None = None
    transductive: bool = False
    encoder: Encoder | None = None

    def adapt(
        self,
        inputs: Sequence[Any],
        targets: Sequence[Any],
        *,
        max_examples: int | None = None,
        max_classes: int | None = None,
    ) -> AdaptedTask:
        """Learns one task from its examples.

        Args:
          inputs: raw examples, as `read` takes them.
          targets: the class of each, integers or strings; in regression its value.
          max_examples: how many there may be in the end, so that `add` need not compile
            again; as many as there are if None.
          max_classes: likewise of classes, for a learner of any number of them.

        Returns:
          What it has made of them.

        Raises:
          ValueError: if they do not fit each other or the learner; it says which.
        """
        examples = self._inputs(inputs)
        classes, numbers = self._encode((), targets)
        ways = self._ways(len(classes), max_classes)
        if max_examples is not None and max_examples < len(examples):
            raise ValueError(
                f"max_examples is {max_examples}, but there are {len(examples)} already."
            )
        if self.transductive:
            logging.log_first_n(
                logging.WARNING,
                "This run normalises by the batch at hand: what it predicts of an input "
                "depends on those given with it. Train with --normalization=group or "
                "support for inputs by themselves.",
                1,
            )
        return self._adapt(examples, numbers, classes, ways, max_examples)

    def add(
        self, task: AdaptedTask, inputs: Sequence[Any], targets: Sequence[Any]
    ) -> AdaptedTask:
        """Learns a task from the examples it had and further ones, of new classes too.

        Nothing is compiled again while there is room; where there is none it doubles.

        Args:
          task: what there is.
          inputs: further raw examples.
          targets: the class of each, or its value.

        Returns:
          What the learner has made of them all.

        Raises:
          ValueError: as `adapt`; of a class too many for the learner.
        """
        examples = self._inputs(inputs)
        classes, numbers = self._encode(task.classes, targets)
        ways = task.ways
        if len(classes) > ways:
            ways = self._ways(len(classes), max(2 * ways, len(classes)))
        real, room = task.num_examples, len(task.support.targets)
        before, targets_before = (x[:real] for x in (task.support[:2]))
        if examples.dtype != before.dtype:  # Pixels of uint8, and from 0 to 1.
            before, examples = (
                np.asarray(scaled(jnp.asarray(x))) for x in (before, examples)
            )
        examples = np.concatenate([before, examples])
        if len(examples) > room:
            room = max(2 * room, len(examples))
        numbers = np.concatenate([targets_before, numbers])
        return self._adapt(examples, numbers, classes, ways, room)

    def predict(self, task: AdaptedTask, inputs: Sequence[Any]) -> Predictions:
        """Predicts the classes, or values, of further inputs of a task.

        Args:
          task: as `adapt` returns it.
          inputs: raw examples.

        Returns:
          Probabilities by class; calibrated if `temperature` is there.

        Raises:
          ValueError: if the inputs do not fit, or if adaptation has diverged.
        """
        queries = self._inputs(inputs)
        learner = self.learner(task.ways)
        at_once = len(queries) if self.transductive else _QUERIES
        outputs = np.concatenate(
            [
                _predictions(learner, self.meta, task.adapted, queries[i : i + at_once])
                for i in range(0, len(queries), at_once)
            ]
        )
        if not self.classifies:
            return Predictions(_finite(outputs), None, ())
        logits = _finite(outputs[:, : len(task.classes)])
        probabilities = np.asarray(self.probabilities(logits))
        return Predictions(logits, probabilities, task.classes)

    def probabilities(self, logits: jax.Array | np.ndarray) -> jax.Array:
        """Those of logits `[examples, classes]`, calibrated if a temperature is known."""
        return jax.nn.softmax(logits / (self.temperature or 1.0))

    def _inputs(self, examples: Sequence[Any]) -> np.ndarray:
        """Raw examples as the learner takes them."""
        read = self.read(examples)
        return read if self.encoder is None else features(self.encoder, read)

    def _adapt(self, inputs, targets, classes, ways, room) -> AdaptedTask:
        if len(inputs) != len(targets):
            raise ValueError(
                f"Give one target an example: got {len(inputs)} and {len(targets)}."
            )
        support = Batch(inputs, targets)
        if room is not None:
            real = np.arange(room) < len(inputs)
            support = Batch(_filled(inputs, room), _filled(targets, room), real)
        learner = self.learner(ways)
        adapted = _adapt(learner, jax.random.key(0), self.meta, support)
        return AdaptedTask(adapted, classes, support, ways)

    def _encode(self, classes: tuple[Label, ...], targets: Sequence[Any]):
        """The classes there are, with new ones after the others; targets as numbers."""
        if not self.classifies:
            values = as_numbers(targets, "Targets").astype(np.float32)
            if values.shape[1:] != (self.ways,):
                raise ValueError(
                    f"Targets must be [examples, {self.ways}]: got {list(values.shape)}."
                )
            return (), values
        labels = as_labels(targets, "Labels")
        if labels.ndim != 1 or not len(labels):
            raise ValueError(
                f"Give labels as a list of one an example: got {targets!r}."
            )
        labels = labels.tolist()
        if self.keeps_labels:
            classes, labels = self.classes, [str(label) for label in labels]
            strange = [label for label in labels if label not in classes]
            if strange:
                raise ValueError(
                    f"Unknown class {strange[0]!r}: this run's labels mean the same in "
                    f"every task, {', '.join(classes)}."
                )
        elif {type(label) for label in classes} - {type(label) for label in labels}:
            raise ValueError("Labels must be all integers or all strings.")
        classes = tuple(dict.fromkeys([*classes, *labels]))
        if len(classes) < 2:
            raise ValueError(
                f"All examples are of class {labels[0]!r}: give examples of two at least."
            )
        places = {label: place for place, label in enumerate(classes)}
        return classes, np.array([places[label] for label in labels], np.int32)

    def _ways(self, num_classes: int, max_classes: int | None) -> int:
        most = self.ways or max_classes or num_classes
        if num_classes > most:
            whose = "this learner was trained for" if self.ways else "max_classes is"
            raise ValueError(f"There are {num_classes} classes, but {whose} {most}.")
        return most


@partial(jax.jit, static_argnums=0)
def _adapt(learner: MetaLearner, key, meta: MetaParams, support: Batch) -> Adapted:
    return learner.adapt(key, meta, support._replace(inputs=scaled(support.inputs)))


@partial(jax.jit, static_argnums=0)
def _predict(learner: MetaLearner, meta: MetaParams, adapted: Adapted, inputs: Masked):
    return learner.predict(meta, adapted, inputs._replace(inputs=scaled(inputs.inputs)))


def _predictions(learner, meta, adapted, inputs: np.ndarray) -> np.ndarray:
    """Outputs of a batch, which is padded to a power of two, so that few sizes compile."""
    size = 1 << (len(inputs) - 1).bit_length()
    shown = Masked(_filled(inputs, size), jnp.arange(size) < len(inputs))
    return np.asarray(_predict(learner, meta, adapted, shown))[: len(inputs)]


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """An array with zeros after its rows, `[size, ...]`."""
    return np.pad(array, [(0, size - len(array)), *[(0, 0)] * (array.ndim - 1)])


def _finite(outputs: PyTree) -> np.ndarray:
    if not np.isfinite(outputs).all():
        raise ValueError(
            "The outputs are not finite: adaptation to these examples has diverged. Look "
            "at the examples, or train with fewer or smaller inner steps."
        )
    return outputs


def load(workdir: str | Path) -> Learned:
    """A finished run, to be used.

    Args:
      workdir: the run's directory; of several seeds, that of one.

    Returns:
      The run, which adapts to raw examples of new tasks and predicts.

    Raises:
      ValueError: if there is no finished run, or none that can be used; it says why.

    Note:
      The experiment that made the run is imported by its name, which is in the run's
      directory: load no run that you would not execute.
    """
    found = read_run(workdir)
    if not isinstance(found, Learned):
        raise ValueError(f"{workdir} holds a player of games: use metajax.rl.load.")
    return found


def read_run(workdir: str | Path) -> Any:
    """What the experiment that made a run gives to be used of it.

    Args:
      workdir: as in `load`.

    Returns:
      A `Learned`, or of games a `metajax.rl.Player`.

    Raises:
      ValueError: as `load`.
    """
    workdir = Path(workdir)
    card = _card(workdir)
    try:
        made_by = importlib.import_module(card["made_by"])
    except ImportError as error:
        raise ValueError(
            f"{workdir} was made by {card['made_by']}, which cannot be imported here: "
            f"{error}."
        ) from error
    return made_by.load(workdir, card)


def _card(workdir: Path) -> dict[str, Any]:
    path = workdir / CARD
    if not path.exists():
        seeds = sorted(each.parent.name for each in workdir.glob(f"seed_*/{CARD}"))
        if seeds:
            why = f"holds a run of several seeds: name one, {workdir / seeds[0]}"
        elif not (workdir / "result.json").exists():
            why = "holds no finished run: train one, or let it come to its end"
        else:
            why = (
                f"holds no {CARD}: its run is of another version, to be trained anew, or "
                "of an experiment whose runs are measured alone, such as maml of games"
            )
        raise ValueError(f"{workdir} {why}.")
    try:
        card = json.loads(path.read_text())
        return card | {"made_by": str(card["made_by"])}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
