"""Images of one's own, in one folder a class: prototypes are learned, and put to use.

    python -m experiments.examples.own_images FOLDER PICTURE

Of the class folders in FOLDER three fifths are learned from; PICTURE shows what classes
that were never seen are taken for, from three examples of each.
"""

import sys

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optax

import metajax as mj


def main(folder, picture, size=32, num_steps=500):
    data = mj.data.from_folder(folder, size=size)
    train, validation, test = mj.data.by_fraction(data, [0.6, 0.2, 0.2])
    ways, shots = min(5, validation.num_classes, test.num_classes), 3
    # Groups: each image is normalised by itself, so that one query is as good as many.
    learner = mj.protonet(mj.models.conv4(None, normalization="group"), ways)
    loss, accuracy = mj.losses.cross_entropy, mj.losses.accuracy
    objective = mj.query_loss(learner, loss, accuracy=accuracy)
    optimizer = optax.adam(1e-3)
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    tasks = mj.data.FewShot(train, ways, shots, 2, mj.data.flips_and_crops())
    state = mj.init_state(jax.random.key(0), learner, optimizer, tasks)
    chosen, best = state.meta, -1.0
    for _ in range(5):  # Parameters are chosen on validation classes.
        steps = num_steps // 5
        state, _ = mj.train(step, state, tasks, num_tasks=4, num_steps=steps)
        sampler = mj.data.FewShot(validation, ways, shots, 2)
        key = jax.random.key(1)
        found = mj.evaluate(objective, state.meta, sampler, key=key, num_tasks=100)
        score = found.values["accuracy"].mean()
        print(f"step {state.step}: {score:.1%} of validation queries are right")
        if score > best:
            chosen, best = jax.tree.map(np.asarray, state.meta), score
    draw(learner, chosen, mj.data.FewShot(test, ways, shots, 2), picture)


def draw(learner, meta, sampler, picture):
    @jax.jit
    def solve(sampler):
        task = sampler(jax.random.key(2))
        adapted = learner.adapt(jax.random.key(0), meta, task.support)
        outputs = learner.predict(meta, adapted, task.query.inputs)
        return task, jax.nn.softmax(outputs)

    task, shares = jax.device_get(solve(sampler))
    figure, axes = plt.subplots(2, sampler.ways, figsize=(2 * sampler.ways, 4.4))
    for label in range(sampler.ways):
        axes[0, label].imshow(task.support.inputs[label * sampler.shots])
        axes[0, label].set_title(f"class {label}")
        query = label * sampler.queries
        axes[1, label].imshow(task.query.inputs[query])
        told = shares[query].argmax()
        axes[1, label].set_title(f"taken for {told}, {shares[query, told]:.0%}")
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(picture, dpi=100, bbox_inches="tight")
    plt.close(figure)
    print(f"Drawn in {picture}.")


if __name__ == "__main__":
    main(*sys.argv[1:3])
