"""The bilevel problem: MNIST with wrong labels, and how far to trust each of them.

    minimise over w, l2:  cross-entropy of params* on a few validation images, well labelled
    params* = argmin  sum_i w[y_i] loss_i / sum_i w[y_i] + l2 / 2 |params|^2

There are no tasks and no meta-learner. The inner loop trains a softmax regression on
digits of MNIST, halved in size, of whose even classes a share has the label of the next
digit. The hyperparameters are the logs of the weight w of each label and of l2.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj

MODEL = mj.models.mlp([], 10)


class Data(NamedTuple):
    """What training starts from, learns from, and is judged on."""

    start: mj.base.Params
    train: mj.Batch
    validation: mj.Batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Always:
    """Draws one and the same problem, whatever the key."""

    data: Data

    def __call__(self, key: mj.base.Key) -> Data:
        del key
        return self.data


def training_loss(params, args):
    """The inner loss: weighted by label, and regularised; `args` is (hyper, batch)."""
    hyper, batch = args
    each = optax.softmax_cross_entropy_with_integer_labels(
        MODEL.apply(params, batch.inputs), batch.targets
    )
    # A weighted mean, whose curvature (and so the best rate) does not grow with w.
    weights = jax.nn.softmax(hyper["log_weights"])[batch.targets]
    fit = jnp.sum(weights * each) / jnp.sum(weights)
    size = optax.tree.norm(params, squared=True)
    return fit + jnp.exp(hyper["log_l2"]) / 2 * size


def validation_loss(adjoint: mj.base.Adjoint, rate: float, num_steps: int):
    """The outer loss, `(hyper, data) -> (loss, fitted params)`."""
    solve = adjoint(training_loss, optax.sgd(rate, momentum=0.9), num_steps)

    def loss(hyper, data: Data):
        fitted = solve(data.start, (hyper, data.train))
        outputs = MODEL.apply(fitted, data.validation.inputs)
        return mj.losses.cross_entropy(outputs, data.validation.targets), fitted

    return loss


def initial(l2: float):
    """The hyperparameters to start from: all labels count the same."""
    return {"log_weights": jnp.zeros(10), "log_l2": jnp.log(jnp.float32(l2))}


def draw(rng, split: str, number: int | None, data_dir: str | None) -> mj.Batch:
    """So many images of each digit, or all, pooled to 14 x 14, with their true labels."""
    digits = mj.data.mnist(split, data_dir=data_dir)
    rows = [row[:count] for row, count in zip(digits.rows, digits.counts)]
    if number is not None:
        rows = [rng.choice(row, number, replace=False) for row in rows]
    images = np.asarray(digits.inputs)[np.concatenate(rows)].astype(np.float32) / 255
    pooled = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
    return mj.Batch(pooled, np.repeat(np.arange(10), [len(row) for row in rows]))


def load(
    seed: int,
    *,
    train_images: int,
    validation_images: int,
    noise: float,
    data_dir: str | None,
) -> tuple[Data, mj.Batch, mj.Batch]:
    """Noisy data, the training images with their true labels, and the test images.

    Args:
      seed: fixes images, noise and what training starts from.
      train_images: training images a digit.
      validation_images: validation images a digit.
      noise: share of the even digits' labels that are wrong.
      data_dir: TFDS's data directory.
    """
    rng = np.random.default_rng(seed)
    parts = {"train": train_images, "validation": validation_images}
    batches = [draw(rng, part, n, data_dir) for part, n in parts.items()]
    batches.append(draw(rng, "test", None, data_dir))
    mean = batches[0].inputs.mean(0, keepdims=True)  # Centred, training is faster.
    batches = [mj.Batch(inputs - mean, targets) for inputs, targets, _ in batches]
    train, validation, test = jax.tree.map(jnp.asarray, batches)
    labels = batches[0].targets
    wrong = (labels % 2 == 0) & (rng.random(len(labels)) < noise)
    noisy = train._replace(targets=train.targets + jnp.asarray(wrong, jnp.int32))
    start = MODEL.init(jax.random.key(seed), train.inputs[:1])
    return Data(start, noisy, validation), train, test
