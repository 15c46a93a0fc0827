"""Texts of one's own, in a CSV file with the columns text and label.

    python -m experiments.examples.own_texts FILE

The table holds what is learned (weights of words, and a projection) against tf-idf, which
learns nothing, task by task on the same tasks of unseen labels.
"""

import sys

import jax
import optax

import metajax as mj

VOCABULARY = 8192


def main(file, num_steps=100, num_tasks=300):
    encode = mj.data.ngrams(VOCABULARY)
    data = mj.data.from_csv(file, encode=encode, length=256)
    train, _, test = mj.data.by_fraction(data, [0.6, 0.2, 0.2])
    ways = min(5, train.num_classes, test.num_classes)
    tasks, tests = (mj.data.FewShot(part, ways, 1, 2) for part in (train, test))

    rarity = mj.data.idf(train, VOCABULARY)
    model = mj.models.bag(VOCABULARY, None, projection=64, idf=rarity)
    learner = mj.meta_baseline(model, ways)  # The nearest class mean by cosine.
    loss, accuracy = mj.losses.cross_entropy, mj.losses.accuracy
    objective = mj.query_loss(learner, loss, accuracy=accuracy)
    optimizer = optax.adam(1e-2)
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    start = mj.init_state(jax.random.key(0), learner, optimizer, tasks)
    untaught = jax.tree.map(jax.numpy.copy, start.meta)  # Training gives start away.
    state, _ = mj.train(step, start, tasks, num_tasks=4, num_steps=num_steps)

    results = {}
    for name, meta in {"tf-idf": untaught, "learned": state.meta}.items():
        key = jax.random.key(1)
        results[name] = mj.evaluate(
            objective, meta, tests, key=key, num_tasks=num_tasks
        )
        mean, interval = mj.mean_and_interval(results[name].values["accuracy"])
        print(f"{name:8s} {100 * mean:.1f} +- {100 * interval:.1f}%")
    gain = mj.paired_difference(results["learned"], results["tf-idf"], "accuracy")
    print(f"task by task the difference is {100 * gain[0]:.1f} +- {100 * gain[1]:.1f}%")


if __name__ == "__main__":
    main(sys.argv[1])
