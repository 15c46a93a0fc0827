"""The gradient of a whole training tells which of its labels are wrong.

    python -m experiments.examples.whole_training PICTURE [DATA_DIR]

A network is trained on 2000 digits of MNIST, 40% of whose labels are wrong, by 4096 steps
of Adam. The derivative of its loss on other digits by the weight of each label goes through
all of them, in the memory of few (`remat="tree"`). Wrong labels stand out by it, where it
tells anything: with too large a rate the training is chaotic, and `check_slope` says so.
"""

import sys

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optax

import metajax as mj

WRONG, CLASSES = 0.4, 10


def draw(random, split, number, data_dir):
    """So many images of each digit at half their size, with their labels."""
    digits = mj.data.mnist(split, data_dir=data_dir)
    each = [row[:count] for row, count in zip(digits.rows, digits.counts)]
    rows = np.concatenate([random.choice(row, number, replace=False) for row in each])
    images = np.asarray(digits.inputs)[rows].astype(np.float32) / 255
    halved = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
    return halved, np.repeat(np.arange(CLASSES), number)


def noisy_digits(images_a_class, data_dir):
    """Images to learn from, some of their labels wrong, which those are, and others."""
    random = np.random.default_rng(0)
    images, true = draw(random, "train", images_a_class, data_dir)
    others = draw(random, "validation", images_a_class // 4, data_dir)
    wrong = random.random(len(true)) < WRONG
    shifts = random.integers(1, CLASSES, len(true))
    labels = np.where(wrong, (true + shifts) % CLASSES, true)
    mean = images.mean(axis=0, keepdims=True)
    return mj.Batch(images - mean, labels), wrong, mj.Batch(others[0] - mean, others[1])


def trained(batch, others, rate, num_steps, hidden):
    """From the weights of labels to the loss on other images of what they train."""
    model = mj.models.mlp([hidden], CLASSES)
    start = model.init(jax.random.key(0), batch.inputs[:1])

    def inner_loss(params, weights):
        logits = model.apply(params, batch.inputs)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        return jnp.mean(weights * each)

    adam = optax.adam(rate, eps_root=1e-12)  # Whose derivative at zero is finite.
    solve = mj.adjoints.unroll(remat="tree")(inner_loss, adam, num_steps)

    def outer_loss(weights):
        params = solve(start, weights)
        return mj.losses.cross_entropy(
            model.apply(params, others.inputs), others.targets
        )

    return outer_loss


def area(scores, positive):
    """The chance that a positive one has a higher score than one that is not (AUC)."""
    ranks = np.argsort(np.argsort(scores))
    least = positive.sum() * (positive.sum() - 1) / 2
    return (ranks[positive].sum() - least) / (positive.sum() * (~positive).sum())


def main(
    picture,
    data_dir=None,
    *,
    rates=(1e-4, 1e-3),
    num_steps=4096,
    images_a_class=200,
    hidden=32,
):
    batch, wrong, others = noisy_digits(images_a_class, data_dir)
    weights = jnp.ones(len(wrong))
    figure, axes = plt.subplots(
        1, len(rates), figsize=(5 * len(rates), 3), squeeze=False
    )
    print(
        "rate     loss  wrong labels told (AUC)  change found / foretold, by distance"
    )
    for rate, axis in zip(rates, axes[0]):
        loss = jax.jit(trained(batch, others, rate, num_steps, hidden))
        value, gradient = jax.jit(jax.value_and_grad(loss))(weights)
        check = mj.check_slope(loss, weights, gradient)
        told = area(np.asarray(gradient), wrong)
        found = ", ".join(f"{d:g}: {a:.2f}" for d, a in check.agreement.items())
        print(f"{rate:<7g} {value:5.2f}  {told:23.3f}  {found}")
        low, high = np.quantile(gradient, (0.01, 0.99))
        for which, name in ((~wrong, "right labels"), (wrong, "wrong labels")):
            shown = np.clip(np.asarray(gradient)[which], low, high)
            axis.hist(shown, 50, range=(low, high), alpha=0.6, label=name)
        axis.set(title=f"rate {rate:g}, AUC {told:.2f}", xlabel="derivative by weight")
        axis.legend()
    figure.savefig(picture, dpi=100, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
