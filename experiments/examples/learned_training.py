"""How to train: rates along the way and strengths of augmentations, by gradient.

    python -m experiments.examples.learned_training PICTURE [DATA_DIR]

A network is trained on 20 images of each digit of MNIST. Eight rates, between which the
rate goes in straight lines, and how much images are turned, moved, zoomed and covered with
noise are learned by the loss on other images, through all steps of the training
(`remat="tree"`), one training an outer step, each from weights of its own. What it is worth
is told on unseen images, beside the best of rates that stay as they are.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optax

import metajax as mj

CLASSES, SIDE = 10, 14
BATCH, ALIKE = 50, 5  # Images of a step, and in how many ways they are augmented.
RATES = np.geomspace(0.01, 1, 9)  # For those that stay as they are.
STRENGTHS = {"turn, radians": 0.05, "move, pixels": 0.3, "zoom": 0.05, "noise": 0.05}


class Strategy(NamedTuple):
    """What is learned."""

    log_rates: jax.Array  # [8], evenly over the training.
    log_strengths: jax.Array  # [4], standard deviations.


def start():
    strengths = jnp.log(jnp.array(list(STRENGTHS.values())))
    return Strategy(jnp.full(8, jnp.log(0.05)), strengths)


def digits(split, number, data_dir):
    """So many images of each digit at half their size, with their labels."""
    of_split = mj.data.mnist(split, data_dir=data_dir)
    random = np.random.default_rng(0)
    each = [row[:count] for row, count in zip(of_split.rows, of_split.counts)]
    rows = np.concatenate([random.choice(row, number, replace=False) for row in each])
    images = np.asarray(of_split.inputs)[rows].astype(np.float32) / 255
    halved = images.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4))
    return mj.Batch(jnp.asarray(halved), jnp.repeat(jnp.arange(CLASSES), number))


def augmented(key, log_strengths, images):
    """Images made noisy, and turned, moved and zoomed, some of them alike."""
    turn, move, zoom, noise = jnp.exp(log_strengths)
    keys = jax.random.split(key, 4)
    angles = turn * jax.random.normal(keys[0], (ALIKE,))
    moves = move * jax.random.normal(keys[1], (ALIKE, 2))
    scales = jnp.exp(zoom * jax.random.normal(keys[2], (ALIKE,)))
    places = jnp.mgrid[:SIDE, :SIDE].reshape(2, -1)
    middle = (SIDE - 1) / 2

    def one(images, angle, scale, move):
        across, along = jnp.sin(angle), jnp.cos(angle)
        turned = scale * jnp.array([[along, -across], [across, along]])
        where = turned @ (places - middle) + middle + move[:, None]
        # How much each pixel has of each other: linear interpolation, as one product.
        near = jax.nn.relu(1 - jnp.abs(where[:, :, None] - places[:, None]))
        return images.reshape(len(images), -1) @ (near[0] * near[1]).T

    groups = images.reshape(ALIKE, -1, SIDE, SIDE)
    images = jax.vmap(one)(groups, angles, scales, moves).reshape(images.shape)
    return images + noise * jax.random.normal(keys[3], images.shape)


MODEL = mj.models.mlp([64], CLASSES)


def trained(key, strategy, batch, num_steps, augment):
    """The parameters after a training by the strategy."""
    init_key, key = jax.random.split(key)
    params = MODEL.init(init_key, batch.inputs[:1])
    places = jnp.linspace(0, num_steps, len(strategy.log_rates))

    def rate(step):
        return jnp.exp(jnp.interp(step, places, strategy.log_rates))

    def loss(params, log_strengths, key):
        row_key, key = jax.random.split(key)
        rows = jax.random.randint(row_key, (BATCH,), 0, len(batch.inputs))
        images = batch.inputs[rows]
        if augment:
            images = augmented(key, log_strengths, images)
        return mj.losses.cross_entropy(MODEL.apply(params, images), batch.targets[rows])

    solve = mj.adjoints.unroll(remat="tree")(
        loss, optax.sgd(rate, momentum=0.9), num_steps
    )
    return solve(params, strategy.log_strengths, jax.random.split(key, num_steps))


def learn(strategy, batch, others, num_steps, outer_steps, augment):
    """The strategy after each outer step, the first before any; and the losses."""
    optimizer = optax.adam(0.1)

    def loss_of(strategy, key):
        params = trained(key, strategy, batch, num_steps, augment)
        return mj.losses.cross_entropy(
            MODEL.apply(params, others.inputs), others.targets
        )

    @jax.jit
    def step(key, strategy, state):
        loss, gradient = jax.value_and_grad(loss_of)(strategy, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(strategy, updates), state, loss

    state, path, losses = optimizer.init(strategy), [strategy], []
    for i in range(outer_steps):
        key = jax.random.fold_in(jax.random.key(0), i)
        strategy, state, loss = step(key, strategy, state)
        path.append(strategy)
        losses.append(float(loss))
        if (i + 1) % 10 == 0:
            print(f"step {i + 1:3d}: loss on other images {np.mean(losses[-10:]):.3f}")
    return path, losses


def measured(strategies, batch, others, num_steps, augment, seeds):
    """Loss and accuracy of trainings by each strategy, `[strategies, seeds]` each."""

    def one(key, strategy):
        params = trained(key, strategy, batch, num_steps, augment)
        outputs = MODEL.apply(params, others.inputs)
        kinds = mj.losses.cross_entropy, mj.losses.accuracy
        return jnp.stack([kind(outputs, others.targets) for kind in kinds])

    keys = jax.random.split(jax.random.key(1), seeds)
    each = jax.jit(jax.vmap(one, (0, None)))
    return np.moveaxis([each(keys, strategy) for strategy in strategies], 2, 0)


def main(
    picture,
    data_dir=None,
    *,
    num_steps=500,
    outer_steps=60,
    seeds=10,
    unseen_a_class=800,
):
    batch = digits("train", 20, data_dir)
    others = digits("validation", 100, data_dir)
    unseen = digits("test", unseen_a_class, data_dir)
    begin = start()
    alike = [begin._replace(log_rates=jnp.full(8, jnp.log(rate))) for rate in RATES]
    losses, _ = measured(alike, batch, others, num_steps, False, seeds)
    best = int(np.nanargmin(losses.mean(axis=1)))
    found = {f"one rate, {RATES[best]:.2g}": (alike[best], False)}
    for augment, name in ((False, "learned rates"), (True, "and augmentation")):
        print(f"Learning: {name}")
        path, losses = learn(begin, batch, others, num_steps, outer_steps, augment)
        found[name] = path[-1], augment
    print("on unseen images      loss              accuracy")
    for name, (strategy, augment) in found.items():
        kinds = measured([strategy], batch, unseen, num_steps, augment, seeds)[:, 0]
        (loss, around), (accuracy, interval) = map(mj.mean_and_interval, kinds)
        print(
            f"{name:20s}  {loss:.3f} +- {around:.3f}    {100 * accuracy:.1f} +- "
            f"{100 * interval:.1f}%"
        )
    draw(found, path, losses, picture)


def draw(found, path, losses, picture):
    figure, axes = plt.subplots(1, 3, figsize=(13, 3))
    for name, (strategy, _) in found.items():
        axes[0].plot(np.linspace(0, 100, 8), np.exp(strategy.log_rates), label=name)
    axes[0].set(xlabel="% of the training", title="rate", yscale="log")
    axes[0].legend()
    strengths = np.exp([strategy.log_strengths for strategy in path])
    for name, along in zip(STRENGTHS, strengths.T):
        axes[1].plot(along, label=name)
    axes[1].set(xlabel="outer step", title="strengths of augmentations", yscale="log")
    axes[1].legend()
    axes[2].plot(losses)
    axes[2].set(xlabel="outer step", title="loss on other images")
    figure.savefig(picture, dpi=100, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
