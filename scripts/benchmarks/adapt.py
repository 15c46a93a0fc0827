"""What one task costs in use: adaptation and prediction, learner by learner."""

import json
from pathlib import Path
from statistics import median
import time
from typing import Any

import jax
import numpy as np
import optax

import metajax as mj

WAYS, SHOTS, QUERIES, SIZE = 5, 1, 15, 28
LEGEND = """\
adapt, predict: medians; x forward: both over one pass of all images through Conv4,
median over rounds, with its range"""


def learners() -> dict[str, mj.MetaLearner]:
    """By name, with the inner steps that its preset or paper takes in testing."""
    model, loss = mj.models.conv4(WAYS), mj.losses.cross_entropy
    embedding, sgd = mj.models.conv4(None), optax.sgd(0.4)
    return {
        "protonet": mj.protonet(embedding, WAYS),
        "matching_net": mj.matching_net(embedding, WAYS),
        "relation_net": mj.relation_net(embedding, mj.models.mlp([64], 1), WAYS),
        "meta_baseline": mj.meta_baseline(embedding, WAYS),
        "r2d2": mj.r2d2(embedding, WAYS),
        "metaoptnet": mj.metaoptnet(embedding, WAYS),
        "baseline, 100 steps": mj.baseline(embedding, loss, sgd, 100, ways=WAYS),
        "anil, 3 steps": mj.anil(model, loss, sgd, 3),
        "cavia, 3 steps": mj.cavia(model, loss, sgd, 3, num_context=100),
        "maml, 3 steps": mj.maml(model, loss, sgd, 3),
        "meta_sgd, 3 steps": mj.meta_sgd(model, loss, 3),
        "maml_plus_plus, 5 steps": mj.maml_plus_plus(model, loss, 5, rate=0.1),
        "imaml, 16 steps": mj.imaml(model, loss, optax.sgd(0.1), 16),
        "reptile, 50 steps": mj.reptile(model, loss, optax.adam(1e-3, b1=0), 50),
    }


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Measures every learner on one task of 5 classes, and writes `adapt.json`.

    Args:
      out: the directory for it.
      quick: whether to take only the first three learners.

    Returns:
      Rows by learner of seconds to adapt and to predict, and of their ratio to a forward
      pass.
    """
    random = np.random.default_rng(0)

    def images(number: int) -> jax.Array:
        shape = (WAYS * number, SIZE, SIZE, 1)
        return jax.numpy.asarray(random.random(shape, np.float32))

    support = mj.Batch(images(SHOTS), np.repeat(np.arange(WAYS), SHOTS))
    query = images(QUERIES)
    chosen = dict(list(learners().items())[: 3 if quick else None])
    programs = {name: _compile(each, support, query) for name, each in chosen.items()}
    forward = _forward(support, query)
    seconds = {name: [] for name in programs}
    for _ in range(3 if quick else 21):
        base = _seconds(forward)
        for name, (adapt, predict) in programs.items():
            seconds[name].append((_seconds(adapt), _seconds(predict), base))
    results = {name: _row(each[1:]) for name, each in seconds.items()}  # Warm.
    (out / "adapt.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(results: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        f"one task, {WAYS} ways, {SHOTS} shot, {WAYS * QUERIES} queries, Conv4 of 64",
        f"{'':24s} adapt ms  predict ms  x forward  range",
    ]
    for name, row in results.items():
        low, high = row["range"]
        lines.append(
            f"{name:24s} {1e3 * row['adapt']:8.2f} {1e3 * row['predict']:11.2f} "
            f"{row['ratio']:10.2f}  {low:.2f} - {high:.2f}"
        )
    return "\n".join([*lines, LEGEND])


def _compile(learner: mj.MetaLearner, support: mj.Batch, query: jax.Array):
    meta = jax.jit(learner.init)(jax.random.key(0), support.inputs)
    adapt = jax.jit(learner.adapt)
    adapted = adapt(jax.random.key(1), meta, support)
    predict = jax.jit(learner.predict)
    return (
        lambda: adapt(jax.random.key(1), meta, support),
        lambda: predict(meta, adapted, query),
    )


def _forward(support: mj.Batch, query: jax.Array):
    model = mj.models.conv4(WAYS)
    everything = jax.numpy.concatenate([support.inputs, query])
    params = jax.jit(model.init)(jax.random.key(0), everything)
    apply = jax.jit(model.apply)
    return lambda: apply(params, everything)


def _seconds(function) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def _row(timings: list[tuple[float, float, float]]) -> dict[str, Any]:
    ratios = [(adapt + predict) / base for adapt, predict, base in timings]
    adapt, predict, _ = map(median, zip(*timings))
    found = {"adapt": adapt, "predict": predict, "ratio": median(ratios)}
    return found | {"range": [min(ratios), max(ratios)]}
