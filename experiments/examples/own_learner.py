"""A learner from a paper, which metajax does not have: Proto-MAML.

    python -m experiments.examples.own_learner

A linear head starts where it is a nearest-mean classifier, and then all parameters take
gradient steps (Triantafillou et al. 2020, Meta-Dataset, arXiv 1903.03096, section 3.2):

    kernel = 2 means',  bias = -|means|^2,  since -|f - m|^2 = 2 f m' - |m|^2 - |f|^2

The laws of tests/algorithms_test.py hold it to what every learner obeys, by one line.
"""

import jax
import jax.numpy as jnp
import optax

import metajax as mj
from metajax import heads
from metajax.base import without_padding


def proto_maml(model, loss, optimizer, num_steps, ways):
    def logits(params, inputs):
        features, head = model.apply(params["body"], inputs), params["head"]
        return features @ head["kernel"] + head["bias"][None]

    def nearest_mean(body, support):
        features = without_padding(model.apply(body, support.shown), support.mask)
        targets, mask = support.targets, support.mask
        members = heads.memberships(targets, ways, mask, features.dtype)
        means = heads.class_means(features, members)
        head = {"kernel": 2 * means.T, "bias": -jnp.sum(means**2, axis=1)}
        return head, members.sum(axis=0)

    def support_loss(params, support):
        return loss(logits(params, support.shown), support.targets, support.mask)

    solve = mj.adjoints.unroll()(support_loss, optimizer, num_steps)

    def adapt(key, meta, support):
        head, counts = nearest_mean(meta, support)
        params = solve({"body": meta, "head": head}, support)
        return params | {"body": model.calibrate(params["body"], support.shown)}, counts

    def predict(meta, adapted, inputs):
        params, counts = adapted
        return heads.hide_absent(logits(params, inputs), counts)

    return mj.MetaLearner(model.init, adapt, predict)


def main(num_steps=300, num_classes=1000, num_test_tasks=600):
    train = mj.data.FewShot(mj.data.glyphs("train", num_classes=num_classes), 5, 1, 5)
    test = mj.data.FewShot(mj.data.glyphs("test", num_classes=num_classes), 5, 1, 5)
    model, loss = mj.models.mlp([64], 32), mj.losses.cross_entropy
    print("learner      accuracy on tasks of unseen classes")
    for name, learner in {
        "proto_maml": proto_maml(model, loss, optax.sgd(0.01), 3, ways=5),
        "protonet": mj.protonet(model, 5),
        "maml": mj.maml(mj.models.mlp([64], 5), loss, optax.sgd(0.1), 3),
    }.items():
        objective = mj.query_loss(learner, loss, accuracy=mj.losses.accuracy)
        optimizer = optax.adam(1e-3)
        step = mj.train_step(mj.estimators.backprop(objective), optimizer)
        state = mj.init_state(jax.random.key(0), learner, optimizer, train)
        state, _ = mj.train(step, state, train, num_tasks=16, num_steps=num_steps)
        key = jax.random.key(1)
        found = mj.evaluate(
            objective, state.meta, test, key=key, num_tasks=num_test_tasks
        )
        mean, interval = mj.mean_and_interval(found.values["accuracy"])
        print(f"{name:12s} {100 * mean:.1f} +- {100 * interval:.1f}%")


if __name__ == "__main__":
    main()
