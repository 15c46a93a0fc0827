"""A backbone that is trained first, part of which is frozen and part learned on.

    python -m experiments.examples.frozen_backbone

Ordinary training on all training classes gives a body, which is kept in a file. Nearest
class means in its space need nothing more; or its first layer stays as it is, and the
second is learned for that use. The same from scratch stands beside them.
"""

from pathlib import Path
import tempfile

import jax
import optax

import metajax as mj

LOSS, ACCURACY = mj.losses.cross_entropy, mj.losses.accuracy


def train(learner, sampler, num_steps, num_tasks, body=None):
    objective = mj.query_loss(learner, LOSS, accuracy=ACCURACY)
    optimizer = optax.adam(1e-3)
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    state = mj.init_state(jax.random.key(0), learner, optimizer, sampler)
    if body is not None:
        state = state._replace(meta=mj.trees.load(body, state.meta))
    state, _ = mj.train(step, state, sampler, num_tasks=num_tasks, num_steps=num_steps)
    return state.meta


def main(num_steps=400, num_classes=200, num_test_tasks=600):
    training = mj.data.glyphs("train", num_classes=num_classes)
    tasks = mj.data.FewShot(training, 5, 1, 5)
    tests = mj.data.FewShot(mj.data.glyphs("test", num_classes=num_classes), 5, 1, 5)

    ordinary = mj.classifier(mj.models.mlp([128, 64], num_classes))
    every = mj.data.FewShot(training, num_classes, 1, 1, permute_labels=False)
    body, _ = mj.trees.split(train(ordinary, every, num_steps, 1), "Dense_*")
    file = Path(tempfile.mkdtemp()) / "body.npz"
    mj.trees.save(file, body)

    learner = mj.protonet(mj.models.mlp([128, 64], None), 5)
    frozen = mj.freeze(learner, "Dense_0/*")
    print("learner                             accuracy on tasks of unseen classes")
    for name, meta in (
        ("body of ordinary training", body),
        (
            "first layer frozen, second learned",
            train(frozen, tasks, num_steps, 16, file),
        ),
        ("from scratch", train(learner, tasks, num_steps, 16)),
    ):
        objective = mj.query_loss(learner, LOSS, accuracy=ACCURACY)
        key = jax.random.key(1)
        found = mj.evaluate(objective, meta, tests, key=key, num_tasks=num_test_tasks)
        mean, interval = mj.mean_and_interval(found.values["accuracy"])
        print(f"{name:35s} {100 * mean:.1f} +- {100 * interval:.1f}%")


if __name__ == "__main__":
    main()
