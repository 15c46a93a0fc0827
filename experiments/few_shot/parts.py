"""What a file of this folder gives for a data set or a learner, beside `door.Part`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from experiments.door import Part

if TYPE_CHECKING:  # The door must not wait for JAX.
    import jax
    import optax

    from metajax.base import Adjoint, Loss, MetaLearner, Model, Sampler
    from metajax.data import ClassArrays
    from metajax.encoders import Encoder


class Problem(NamedTuple):
    """Tasks to learn from, to choose by and to be judged on, and how they are scored.

    There are none where what was learned is used.
    """

    train: Sampler | None
    validation: Sampler | None
    test: Sampler | None
    inputs: jax.ShapeDtypeStruct | None  # One example, as the data has it.
    outputs: int  # Width of a model's last layer, in training,
    eval_outputs: int  # and in evaluation.
    loss: Loss
    metrics: dict[str, Loss] = {}  # Reported beside the loss,
    eval_metrics: dict[str, Loss] = {}  # and in evaluation alone.
    calibrate: bool = False  # By a temperature, chosen on the validation tasks.
    raw: jax.ShapeDtypeStruct | None = None  # One example before a frozen encoder.

    @property
    def digests(self) -> dict[str, str]:
        """Of the classes that tasks are drawn from, by split, if there are any."""
        parts = {"training": self.train, "validation": self.validation}
        parts["test"] = self.test
        return {
            name: sampler.data.digest
            for name, sampler in parts.items()
            if hasattr(sampler, "data")
        }

    @property
    def classifies(self) -> bool:
        return "accuracy" in self.metrics


class Data(NamedTuple):
    """A data set.

    Attributes:
      about: what it is, in a line.
      make: reads the training, validation and test classes, if it has classes.
      tasks: makes a `Problem` of them, or of None where a run is used.
      raw: from one example, as the data has it, to what reads a user's.
      reads: the flags that `make` reads.
      images: whether examples are images, of which one keeps the core of a CPU busy.
    """

    about: str
    make: Callable[..., list[ClassArrays] | None]
    tasks: Part
    raw: Part
    reads: tuple[flags.FlagHolder, ...] = ()
    images: bool = False

    @property
    def flags(self) -> tuple[flags.FlagHolder, ...]:
        return (*self.reads, *self.tasks.flags)


class FrozenEncoder(NamedTuple):
    """A frozen encoder.

    Attributes:
      about: what it is, in a line.
      make: builds it, or None for none, by the flags in `reads`.
      takes: what raw examples may be: images, texts or arrays.
      reads: those flags.
      models: those that take what it gives.
    """

    about: str
    make: Callable[..., Encoder | None]
    takes: tuple[str, ...]
    reads: tuple[flags.FlagHolder, ...] = ()
    models: tuple[str, ...] = ("mlp", "residual_mlp")

    @property
    def flags(self) -> tuple[flags.FlagHolder, ...]:
        return self.reads


class Given(NamedTuple):
    """What a learner is made for."""

    build: Callable[[int | None], Model]  # By the width of its head, None for no head.
    outputs: int
    classifies: bool
    loss: Loss
    num_steps: int  # Inner steps.
    optimizer: optax.GradientTransformation | None  # Of inner steps, if flags name it.
    adjoint: Adjoint | None  # If flags choose it.

    @property
    def model(self) -> Model:
        return self.build(self.outputs)

    @property
    def embedding(self) -> Model:
        return self.build(None)


class Learner(NamedTuple):
    """A learner, and what sets it apart from others.

    Attributes:
      about: what it is, in a line.
      make: `(given, **flags) -> learner`, by the flags in `reads`.
      reads: those flags.
      also: flags that are read for it, though not by `make`.
      adjoint: how its inner loop is differentiated by default; None where that is its
        own, so that no flag chooses it.
      rests: whether its inner loop may come to rest, so that --adjoint=implicit suits.
      estimator: that of its meta-gradient by default.
      moves: whether what inner steps move is what is meta-learned, so that
        --estimator=displacement suits.
      any_ways: whether it classifies with no parameter that depends on the ways, so that
        they may differ in evaluation.
      needs: what else flags must be, as lines of `(holds, message)`.
      trained: what it is in training, if another learner: `given -> learner`.
      step_weights: of the loss after each inner step where more than the last counts in
        training, `(step, num_steps, **flags) -> weights`; `make` has then an argument
        `every_step`.
    """

    about: str
    make: Callable[..., MetaLearner]
    reads: tuple[flags.FlagHolder, ...] = ()
    also: tuple[flags.FlagHolder, ...] = ()
    adjoint: str | None = None
    rests: bool = False
    estimator: str = "backprop"
    moves: bool = False
    any_ways: bool = False
    needs: tuple[tuple[Callable[[flags.FlagValues], bool], str], ...] = ()
    trained: Callable[[Given], MetaLearner] | None = None
    step_weights: Part | None = None

    @property
    def flags(self) -> tuple[flags.FlagHolder, ...]:
        weights = self.step_weights.flags if self.step_weights else ()
        return (*self.reads, *self.also, *weights)
