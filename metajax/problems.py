"""Small trainings by the million, drawn by keys: what update rules are learned on."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax import losses
from metajax.base import Batch, Key, Loss, Model, Params, PyTree, Sampler, Task

Draw = Callable[[Key], Any]  # A task of any kind.


class Problem(NamedTuple):
    """A distribution of trainings, for any optimizer.

    Attributes:
      sample: `key -> task`, draws one of them; traceable.
      init: `(key, task) -> params`, before the first step.
      loss: `(key, params, task) -> loss`, what an optimizer descends: of a minibatch that
        the key draws, say.
      losses: `(params, task) -> losses`, on all there is, by name: "train" and, where
        there are other examples to judge by, "test".
      query_loss: as `loss`, of those other examples; None where there are none.
    """

    sample: Draw
    init: Callable[[Key, PyTree], Params]
    loss: Callable[[Key, Params, PyTree], jax.Array]
    losses: Callable[[Params, PyTree], dict[str, jax.Array]]
    query_loss: Callable[[Key, Params, PyTree], jax.Array] | None = None


def networks(
    tasks: Sampler, model: Model, batch: int, loss: Loss = losses.cross_entropy
) -> Problem:
    """The training of a network on the support set of a task, judged on its query set.

    Args:
      tasks: draws a task, such as `data.FewShot`.
      model: the network, the same in all of them.
      batch: examples of a step, drawn with replacement.
      loss: of outputs and targets.

    Returns:
      Trainings whose parameters are the model's.

    Raises:
      ValueError: if the batch is not positive.

    Example:
      >>> from metajax import data, models
      >>> images = data.from_arrays(jnp.ones((60, 8)), jnp.arange(60) % 6)
      >>> tasks = data.FewShot(images, ways=3, shots=8, queries=2)
      >>> problem = networks(tasks, models.mlp([16], 3), batch=4)
      >>> task = jax.jit(problem.sample)(jax.random.key(0))
      >>> params = jax.jit(problem.init)(jax.random.key(1), task)
      >>> sorted(jax.jit(problem.losses)(params, task))
      ['test', 'train']
    """

    def init(key: Key, task: Task) -> Params:
        return model.init(key, task.support.inputs[:1])

    def on(params: Params, task: Task, examples: Batch) -> jax.Array:
        del task
        return loss(model.apply(params, examples.inputs), examples.targets)

    return _supervised(tasks, init, on, batch)


class Sized(NamedTuple):
    """A task with the size of the network that is trained on it."""

    task: Task
    width: jax.Array  # Units of each hidden layer.
    depth: jax.Array  # Hidden layers.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WithSizes:
    """Draws tasks with sizes: widths log-uniform, depths uniform, ends included."""

    tasks: Sampler
    widths: tuple[int, int] = dataclasses.field(metadata={"static": True})
    depths: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def __call__(self, key: Key) -> Sized:
        task_key, width_key, depth_key = jax.random.split(key, 3)
        least, most = self.widths
        share = jax.random.uniform(width_key)
        width = jnp.int32(least * ((most + 1) / least) ** share)
        depth = jax.random.randint(depth_key, (), self.depths[0], self.depths[1] + 1)
        return Sized(self.tasks(task_key), jnp.minimum(width, most), depth)


def perceptrons(
    tasks: Sampler,
    outputs: int,
    batch: int,
    *,
    widths: tuple[int, int],
    depths: tuple[int, int],
) -> Problem:
    """The training of perceptrons of differing widths and depths on images or vectors.

        hidden[i + 1] = relu(hidden[i] @ kernel[i] + bias[i])

    All have the shapes of the largest: units beyond the width are held at 0, and layers
    beyond the depth are left out, so that their parameters have no gradient.

    Args:
      tasks: draws a task with class labels as targets.
      outputs: classes.
      batch: examples of a step, drawn with replacement.
      widths: fewest and most units of each hidden layer.
      depths: fewest and most hidden layers.

    Returns:
      Trainings whose tasks are `Sized`.

    Raises:
      ValueError: if a size is not positive, or a range is empty.

    Note:
      What a rule sees of a whole array, such as its root mean square, includes the units
      that are not there.
    """
    for name, bounds in (("widths", widths), ("depths", depths)):
        if not 1 <= bounds[0] <= bounds[1]:
            raise ValueError(
                f"perceptrons: {name} must be a range (fewest, most) from 1 on: got "
                f"{bounds}."
            )
    most_units, most_layers = widths[1], depths[1]

    def layer(key: Key, inputs: int, of: int, shared_by) -> dict[str, jax.Array]:
        kernel = jax.random.normal(key, (inputs, of)) * jnp.sqrt(2 / shared_by)
        return {"kernel": kernel, "bias": jnp.zeros(of)}

    def init(key: Key, sized: Sized) -> Params:
        keys = jax.random.split(key, most_layers + 1)
        features = sized.task.support.inputs[0].size
        first = layer(keys[0], features, most_units, features)
        hidden = [layer(k, most_units, most_units, sized.width) for k in keys[1:-1]]
        last = layer(keys[-1], most_units, outputs, 2 * sized.width)
        return {"hidden": [first, *hidden], "head": last}

    def on(params: Params, sized: Sized, examples: Batch) -> jax.Array:
        x = examples.inputs.reshape(len(examples.targets), -1)
        there = (jnp.arange(most_units) < sized.width)[None]
        for index, each in enumerate(params["hidden"]):
            y = jax.nn.relu(x @ each["kernel"] + each["bias"][None])
            x = jnp.where(there & (index < sized.depth), y, x if index else 0.0)
        logits = x @ params["head"]["kernel"] + params["head"]["bias"][None]
        return losses.cross_entropy(logits, examples.targets)

    return _supervised(WithSizes(tasks, widths, depths), init, on, batch)


def _supervised(
    sample: Draw,
    init: Callable[[Key, PyTree], Params],
    on: Callable[[Params, Any, Batch], jax.Array],
    batch: int,
) -> Problem:
    """Trainings on minibatches, by a loss on examples, `(params, task, examples)`."""
    if batch < 1:
        raise ValueError(f"batch must be positive: got {batch}.")

    def examples(task: PyTree) -> Task:
        return task.task if isinstance(task, Sized) else task

    def drawn(key: Key, params: Params, task: PyTree, among: Batch) -> jax.Array:
        places = jax.random.randint(key, (batch,), 0, len(among.targets))
        return on(params, task, jax.tree.map(lambda x: x[places], among))

    def losses_on_all(params: Params, task: PyTree) -> dict[str, jax.Array]:
        support, query = examples(task)
        return {"train": on(params, task, support), "test": on(params, task, query)}

    return Problem(
        sample,
        init,
        lambda key, params, task: drawn(key, params, task, examples(task).support),
        losses_on_all,
        lambda key, params, task: drawn(key, params, task, examples(task).query),
    )


class Quadratic(NamedTuple):
    """A least-squares problem."""

    matrix: jax.Array  # [dim, dim]
    target: jax.Array  # [dim]


def quadratics(dim: int) -> Problem:
    """Least squares with a random matrix and target, both standard normal.

        loss = |matrix params - target|^2

    Args:
      dim: numbers that are sought.

    Returns:
      Trainings without noise, which start from standard normal params `[dim]`.

    Raises:
      ValueError: if `dim` is not positive.

    Source:
      Andrychowicz et al. 2016 (arXiv 1606.04474), section 3.1.
    """
    if dim < 1:
        raise ValueError(f"quadratics: dim must be positive: got {dim}.")

    def sample(key: Key) -> Quadratic:
        matrix_key, target_key = jax.random.split(key)
        matrix = jax.random.normal(matrix_key, (dim, dim))
        return Quadratic(matrix, jax.random.normal(target_key, (dim,)))

    def value(params: Params, task: Quadratic) -> jax.Array:
        return jnp.sum(jnp.square(task.matrix @ params - task.target))

    return _without_noise(sample, (dim,), value)


def rosenbrock(dim: int) -> Problem:
    """Rosenbrock's valley, from a random start, along walls of a random height.

        loss = sum over i of  walls (params[i + 1] - params[i]^2)^2 + (1 - params[i])^2

    Args:
      dim: numbers that are sought, at least two.

    Returns:
      Trainings without noise, which start from standard normal params `[dim]`; their
      tasks are `walls`, log-uniform from 1 to 100. The least loss is 0, where all are 1.

    Raises:
      ValueError: if `dim` is less than two.
    """
    if dim < 2:
        raise ValueError(f"rosenbrock: dim must be at least 2: got {dim}.")

    def sample(key: Key) -> jax.Array:
        return 100 ** jax.random.uniform(key)

    def value(params: Params, walls: jax.Array) -> jax.Array:
        before, after = params[:-1], params[1:]
        return jnp.sum(walls * (after - before**2) ** 2 + (1 - before) ** 2)

    return _without_noise(sample, (dim,), value)


def _without_noise(
    sample: Draw,
    shape: tuple[int, ...],
    value: Callable[[Params, Any], jax.Array],
) -> Problem:
    """The descent of functions that are known whole."""
    return Problem(
        sample,
        lambda key, task: jax.random.normal(key, shape),
        lambda key, params, task: value(params, task),
        lambda params, task: {"train": value(params, task)},
    )
