"""The vocabulary of metajax: tasks, models, meta-learners, and the functions between them.

A task is data. A meta-learner is three pure functions written for ONE task. The task
axis appears only in `estimators`, `training` and `evaluation`, which add it by `vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

Key = jax.Array  # A typed key, as from `jax.random.key`.
PyTree = Any
Params = PyTree  # What a model is run with.
MetaParams = PyTree  # What is learned across tasks.
Adapted = PyTree  # What adaptation to one task returns.
Args = PyTree  # Whatever else an inner loss depends on, differentiated or not.
Metrics = dict[str, jax.Array]


class Masked(NamedTuple):
    """Inputs some of which are padding, for models whose examples see each other."""

    inputs: PyTree  # [examples, ...]
    mask: jax.Array  # [examples], bool, True for real examples


def without_padding(tree: PyTree, mask: jax.Array | None, fill: float = 0) -> PyTree:
    """The leaves, `[examples, ...]`, with `fill` for examples that are padding.

    What is masked may hold anything, NaN among it. It must go before the arithmetic:
    masked after it, its derivative would be 0 times NaN.
    """
    if mask is None:
        return tree

    def filled(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        real = jnp.reshape(mask, (len(mask),) + (1,) * (leaf.ndim - 1))
        return jnp.where(real, leaf, jnp.full((), fill, leaf.dtype))

    return jax.tree.map(filled, tree)


class Batch(NamedTuple):
    """Examples of one task; `mask` tells real examples from padding (None: all real)."""

    inputs: PyTree  # [examples, ...]
    targets: PyTree  # [examples, ...]
    mask: jax.Array | None = None  # [examples], bool

    @property
    def shown(self) -> PyTree:
        """The inputs as models take them: `Masked`, with zeros for padding, if any."""
        if self.mask is None:
            return self.inputs
        return Masked(without_padding(self.inputs, self.mask), self.mask)


class Task(NamedTuple):
    """What one task shows (`support`) and what it is judged on (`query`)."""

    support: Batch
    query: Batch


class Calibrated(NamedTuple):
    """Params together with the normalisation statistics they are to be used with."""

    params: Params
    statistics: PyTree


def _unchanged(params: Params, inputs: PyTree) -> Params:
    del inputs
    return params


class Model(NamedTuple):
    """A parametric function: any pair of pure functions is one.

    Attributes:
      init: `(key, inputs) -> params`, from example inputs `[examples, ...]`.
      apply: `(params, inputs) -> outputs`, `[examples, ...]` both. Inputs of a batch
        with a mask come as `Masked`, and padding must not change the other outputs.
      calibrate: `(params, inputs) -> params`, the params with their normalisation
        statistics fixed to those of `inputs`. Meta-learners call it with the support
        inputs at the end of adaptation, so that a prediction cannot depend on the
        other queries. Models without such statistics keep the default, which does
        nothing.
    """

    init: Callable[[Key, PyTree], Params]
    apply: Callable[[Params, PyTree], PyTree]
    calibrate: Callable[[Params, PyTree], Params] = _unchanged


class Recurrent(NamedTuple):
    """A parametric function along a sequence, with a memory.

    Attributes:
      init: `(key, inputs) -> params`, from the inputs of one place.
      start: `params -> memory`, before the first place.
      step: `(params, memory, inputs) -> (memory, outputs)`, of one place.
      apply: `(params, inputs, begins) -> outputs`, `[places, ...]` each: the same as
        `step` along them, memory starting anew where `begins`, bool[places], says so.
    """

    init: Callable[[Key, PyTree], Params]
    start: Callable[[Params], PyTree]
    step: Callable[[Params, PyTree, PyTree], tuple[PyTree, PyTree]]
    apply: Callable[[Params, PyTree, jax.Array], PyTree]


class Rule(NamedTuple):
    """A learned update rule: meta-parameters that make an optimizer.

    Attributes:
      init: `key -> meta`, the meta-parameters to start from.
      optimizer: `meta -> optimizer`, an optax transformation, whose updates must be given
        the params and are smooth in `meta`.
    """

    init: Callable[[Key], MetaParams]
    optimizer: Callable[[MetaParams], optax.GradientTransformation]


class MetaLearner(NamedTuple):
    """A way to learn from one task, as three pure functions.

    Attributes:
      init: `(key, inputs) -> meta`, the meta-parameters to start from.
      adapt: `(key, meta, support) -> adapted`, learning from one task's support batch.
      predict: `(meta, adapted, inputs) -> outputs`, for new inputs of that task, which
        come as `Masked` if some of them are padding.
    """

    init: Callable[[Key, PyTree], MetaParams]
    adapt: Callable[[Key, MetaParams, Batch], Adapted]
    predict: Callable[[MetaParams, Adapted, PyTree], PyTree]


class Loss(Protocol):
    """The cost of predictions, averaged over the examples that `mask` marks as real."""

    def __call__(
        self, outputs: PyTree, targets: PyTree, mask: jax.Array | None = None
    ) -> jax.Array: ...


class InnerLoss(Protocol):
    """What an inner loop descends; gradients flow through its arguments alone.

    Where steps have something of their own, that of the step comes third.
    """

    def __call__(
        self,
        params: Params,
        args: Args,
        /,
        *own: Any,
        **_: Any,  # Never given: so written, type checkers let `own` be left out.
    ) -> jax.Array: ...


class Solve(Protocol):
    """An inner loop: the params after its steps.

    `per_step`, leaves `[steps, ...]`, is what each step has of its own, such as a
    minibatch. With `iterates` the params before the first step and after each come
    back, leaves `[steps + 1, ...]`.
    """

    def __call__(
        self,
        params: Params,
        args: Args,
        per_step: PyTree = None,
        *,
        iterates: bool = False,
    ) -> Params: ...


class Adjoint(Protocol):
    """Builds an inner loop and its derivative."""

    def __call__(
        self, loss: InnerLoss, optimizer: optax.GradientTransformation, num_steps: int
    ) -> Solve: ...


class Sampler(Protocol):
    """Draws one task: a pure function of a key."""

    def __call__(self, key: Key) -> Task: ...


class Objective(Protocol):
    """What one task costs: a scalar to minimise, and metrics to look at."""

    def __call__(
        self, key: Key, meta: MetaParams, task: Task, /
    ) -> tuple[jax.Array, Metrics]: ...


class Carrying(NamedTuple):
    """An estimator with a memory, which sees the tasks of its steps through windows.

    Attributes:
      begin: `(key, meta, tasks) -> carried`, before the first step.
      estimate: `(key, meta, tasks, carried) -> (((loss, metrics), gradient), carried)`;
        tasks are those that begin if others have come to their end.
    """

    begin: Callable[[Key, MetaParams, PyTree], PyTree]
    estimate: Callable[[Key, MetaParams, PyTree, PyTree], tuple[PyTree, PyTree]]


class Estimator(Protocol):
    """Estimates the meta-gradient from many tasks: leaves of `tasks` are [tasks, ...]."""

    def __call__(
        self, key: Key, meta: MetaParams, tasks: Task
    ) -> tuple[tuple[jax.Array, Metrics], MetaParams]: ...
