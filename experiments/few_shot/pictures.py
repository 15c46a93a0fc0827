"""The pictures that a few-shot run draws beside those of every run."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.running.pictures import save
import metajax as mj
from metajax import streams, trees
from metajax.learners import Fitted

_BEFORE, _AFTER, _TRUE = "0.55", "tab:orange", "tab:blue"


def rates(learned: mj.base.PyTree, path: Path) -> None:
    """The learned inner rates of each leaf: their range, quarters and median."""
    names = trees.leaf_paths(learned)
    values = [np.ravel(leaf) for leaf in jax.tree.leaves(learned)]
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.3 * len(names)))
    axis.boxplot(
        values,
        orientation="horizontal",
        tick_labels=[name or "all" for name in names],
        whis=(0, 100),
    )
    axis.axvline(0, color=_BEFORE, linewidth=0.8)
    axis.invert_yaxis()
    axis.set(xlabel="inner rate", title="learned inner rates")
    save(figure, path)


def rates_by_step(learned: mj.base.PyTree, path: Path) -> None:
    """The learned inner rates of each leaf against the inner step, means over leaves."""
    figure, axis = plt.subplots(figsize=(7, 4))
    names = trees.leaf_paths(learned)
    styles = itertools.product(("-", "--", ":", "-."), plt.cm.tab10(range(10)))
    for name, leaf, (line, color) in zip(names, jax.tree.leaves(learned), styles):
        means = np.asarray(leaf).reshape(len(leaf), -1).mean(axis=1)
        steps = range(1, len(leaf) + 1)
        axis.plot(steps, means, line, color=color, marker=".", label=name or "all")
    axis.set_xticks(steps)
    axis.set(xlabel="inner step", title="learned inner rates")
    axis.legend(fontsize=7, bbox_to_anchor=(1, 1), loc="upper left")
    save(figure, path)


def task_sheet(sampler: mj.base.Sampler, path: Path, num_tasks: int = 3) -> None:
    """A few sampled tasks to look at: support and query, one row a class."""
    keys = jax.random.split(jax.random.key(0), num_tasks)
    sample = jax.jit(lambda sampler, keys: jax.vmap(sampler)(keys))
    together = jax.device_get(sample(streams.as_pytree(sampler), keys))
    tasks = [jax.tree.map(lambda x: x[i], together) for i in range(num_tasks)]  # noqa: B023
    support = tasks[0].support
    if support.inputs.ndim == 4 and support.inputs.shape[-1] in (1, 3):
        draw = _draw_images
    elif support.inputs.shape == support.targets.shape:
        draw = _draw_points
    else:
        return  # Vectors and the like: there is nothing to look at.
    figure, axes = plt.subplots(
        1, num_tasks, figsize=(4 * num_tasks, 3.5), squeeze=False
    )
    for index, (task, axis) in enumerate(zip(tasks, axes[0])):
        draw(axis, task)
        axis.set_title(f"task {index}")
    save(figure, path)


def _draw_images(axis, task: mj.Task) -> None:
    """One row a label: its support images, a gap, its first query images."""
    ways = int(task.support.targets.max()) + 1

    def grid(batch, most):
        images = np.asarray(batch.inputs).reshape(ways, -1, *batch.inputs.shape[1:])
        rows = images[:, :most]  # [ways, examples, height, width, channels]
        return np.concatenate(np.moveaxis(rows, 1, 0), axis=2).reshape(
            -1, rows.shape[1] * rows.shape[3], rows.shape[4]
        )

    support, query = grid(task.support, 5), grid(task.query, 5)
    gap = np.full((len(support), 6, support.shape[2]), 0.5)
    sheet = np.concatenate([support, gap, query], axis=1).clip(0, 1)
    axis.imshow(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet, cmap="gray_r")
    height = len(support) / ways
    axis.set_yticks(height * (np.arange(ways) + 0.5), range(ways))
    middles = [support.shape[1] / 2, support.shape[1] + 6 + query.shape[1] / 2]
    axis.set_xticks(middles, ["support", "query"])
    axis.set_ylabel("label")


def _draw_points(axis, task: mj.Task) -> None:
    for batch, name, marker in (
        (task.support, "support", "o"),
        (task.query, "query", "."),
    ):
        axis.plot(batch.inputs[:, 0], batch.targets[:, 0], marker, label=name)
    axis.legend()


def regression(
    learners: dict[int, mj.MetaLearner],
    meta: mj.base.MetaParams,
    sampler: mj.data.Sinusoid,
    path: Path,
) -> None:
    """True curve, support points, and predictions before and after adaptation."""
    inputs = np.linspace(*sampler.inputs, 200, dtype=np.float32)[:, None]

    @jax.jit
    @jax.vmap
    def solve(key):
        support, curve = sampler.at(key, inputs)
        adapted = {n: learners[n].adapt(key, meta, support) for n in learners}
        outputs = {n: learners[n].predict(meta, adapted[n], inputs) for n in learners}
        return support, curve.targets, outputs

    together = jax.device_get(solve(jax.random.split(jax.random.key(0), 3)))
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5))
    for index, axis in enumerate(axes):
        support, curve, found = jax.tree.map(lambda x: x[index], together)  # noqa: B023
        axis.plot(inputs, curve, color=_TRUE, label="true")
        for num_steps, outputs in found.items():
            shade = plt.cm.Oranges(0.35 + 0.65 * num_steps / max(max(learners), 1))
            color, style = (shade, "-") if num_steps else (_BEFORE, "--")
            name = f"after {num_steps}" if num_steps else "before"
            axis.plot(inputs, outputs, style, color=color, label=name)
        axis.plot(support.inputs, support.targets, "k^", label="support")
        axis.set_xlabel("input")
    axes[0].legend(fontsize=7)
    save(figure, path)


def classification(
    learner: mj.MetaLearner,
    embedding: mj.Model,
    meta: mj.base.MetaParams,
    sampler: mj.base.Sampler,
    path: Path,
) -> None:
    """One test task: who is taken for whom, and where a fitted head sees its examples."""
    key = jax.random.key(0)
    task = sampler(key)

    @jax.jit
    def solve(meta, task):
        adapted = learner.adapt(key, meta, task.support)
        outputs = learner.predict(meta, adapted, task.query.shown)
        features = None
        if isinstance(adapted, Fitted):
            inputs = (task.support.shown, task.query.shown)
            features = [embedding.apply(adapted.params, each) for each in inputs]
        return jnp.argmax(outputs, axis=1), features

    predicted, features = jax.device_get(solve(meta, task))
    ways = int(task.support.targets.max()) + 1
    counts = np.zeros((ways, ways), int)
    np.add.at(counts, (np.asarray(task.query.targets), predicted), 1)
    figure, axes = plt.subplots(
        1, 1 if features is None else 2, figsize=(9, 4), squeeze=False
    )
    axes[0, 0].imshow(counts, cmap="Blues")
    if ways <= 10:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if count > counts.max() / 2 else "black"
            axes[0, 0].text(column, row, count, ha="center", va="center", color=color)
    share = np.trace(counts) / counts.sum()
    axes[0, 0].set(
        xlabel="predicted", ylabel="label", title=f"queries, {share:.0%} right"
    )
    if features is not None:
        _draw_features(axes[0, 1], features, task)
    save(figure, path)


def _draw_features(axis, features: list[np.ndarray], task: mj.Task) -> None:
    """Support and query features along their two principal directions."""
    together = np.concatenate(features)
    centred = together - together.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    support, query = np.split(centred @ directions.T, [len(features[0])])
    for points, labels, style in (
        (query, task.query.targets, {"marker": ".", "alpha": 0.6}),
        (support, task.support.targets, {"marker": "*", "s": 160, "edgecolors": "k"}),
    ):
        axis.scatter(
            *points.T,
            c=np.asarray(labels),
            cmap="tab10" if labels.max() < 10 else "tab20",
            **style,
        )
    axis.set(title="features: support (stars) and queries")
    axis.set(xlabel="first principal direction", ylabel="second")
