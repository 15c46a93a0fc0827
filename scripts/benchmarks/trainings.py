"""Long trainings: differentiated whole, and seen through windows by what learns a rule."""

from collections.abc import Callable
from functools import partial
import json
from pathlib import Path
from statistics import median
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj
from metajax import training
from scripts.benchmarks import rule_loops

RUNGS = ("step", "nested", "tree")
LEGEND = """\
MiB: what the compiled gradient allocates beside its arguments and results; in brackets,
how many times less than recomputing step by step. s: median time; in brackets, of that of
recomputing step by step. Trainings: an inner step is one of one training of a pair."""


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Measures whole gradients and the learning of a rule, and writes `trainings.json`.

    Args:
      out: the directory for it.
      quick: whether to take fewer steps.
    """
    steps = (256, 512) if quick else (4096, 65536)
    results = {
        "whole": [whole(RUNGS, steps[0], 3), whole(("tree",), steps[1], 1)],
        "rule": rule(10 if quick else 50, rounds=1 if quick else 3),
    }
    (out / "trainings.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def whole(rungs: tuple[str, ...], num_steps: int, rounds: int) -> dict[str, Any]:
    """The gradient by the weights of 100 examples through so many steps of Adam."""
    random = np.random.default_rng(0)
    batch = mj.Batch(
        jnp.asarray(random.normal(size=(100, 64)), jnp.float32),
        jnp.asarray(random.integers(0, 10, 100)),
    )
    model = mj.models.mlp([32], 10)
    params = model.init(jax.random.key(0), batch.inputs[:1])

    def inner_loss(params, weights):
        logits = model.apply(params, batch.inputs)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        return jnp.mean(weights * each)

    def gradient(remat: str):
        adam = optax.adam(1e-4, eps_root=1e-12)
        solve = mj.adjoints.unroll(remat=remat)(inner_loss, adam, num_steps)

        def outer_loss(weights):
            trained = model.apply(solve(params, weights), batch.inputs)
            return mj.losses.cross_entropy(trained, batch.targets)

        return jax.jit(jax.grad(outer_loss)).lower(jnp.ones(100)).compile()

    compiled, compile_seconds = {}, {}
    for name in rungs:
        start = time.perf_counter()
        compiled[name] = gradient(name)
        compile_seconds[name] = time.perf_counter() - start
    seconds, found = _in_turn(
        {name: partial(each, jnp.ones(100)) for name, each in compiled.items()}, rounds
    )
    first = np.asarray(found[rungs[0]])
    return {
        "num_steps": num_steps,
        "rungs": {
            name: {
                "temporary_bytes": each.memory_analysis().temp_size_in_bytes,
                "seconds": seconds[name],
                "compile_seconds": compile_seconds[name],
                "error": float(
                    np.linalg.norm(found[name] - first) / np.linalg.norm(first)
                ),
            }
            for name, each in compiled.items()
        },
    }


def rule(num_steps: int, rounds: int) -> dict[str, Any]:
    """Outer steps of learning a rule for small networks, in one jit and as others do."""
    setting = rule_loops.Setting()
    ways = {"metajax, one jit": _one_jit, **rule_loops.available()}
    begun, compile_seconds = {}, {}
    for name, make in ways.items():
        start = time.perf_counter()
        begun[name] = make(setting, num_steps)
        begun[name]()
        compile_seconds[name] = time.perf_counter() - start
    seconds, _ = _in_turn(begun, rounds)
    inner = num_steps * setting.window * setting.num_tasks * 2
    return {
        "setting": setting._asdict(),
        "num_steps": num_steps,
        "ways": {
            name: {
                "outer_steps_per_second": num_steps / seconds[name],
                "inner_steps_per_second": inner / seconds[name],
                "first_seconds": compile_seconds[name],
            }
            for name in ways
        },
    }


def _one_jit(setting: rule_loops.Setting, num_steps: int) -> Callable[[], Any]:
    data = mj.data.from_arrays(*rule_loops.images())
    tasks = mj.data.FewShot(data, 10, 50, 20)
    problem = mj.problems.networks(
        tasks, mj.models.mlp([setting.hidden], 10), setting.batch
    )
    rule = mj.rules.per_parameter(16)
    dynamics = mj.rules.training(rule, problem.init, problem.loss)
    carrying = mj.estimators.persistent(
        dynamics, window=setting.window, horizon=setting.horizon, std=0.01
    )
    optimizer = optax.adam(1e-3)
    step, key = mj.train_step(carrying, optimizer), jax.random.key(0)
    meta = rule.init(key)
    carried = training.begin_carrying(key, carrying, meta, tasks, setting.num_tasks)
    state = training.begin(key, meta, optimizer, carried)

    def go():
        nonlocal state
        state, metrics = mj.train(
            step, state, tasks, num_tasks=setting.num_tasks, num_steps=num_steps
        )
        return jax.block_until_ready(metrics["loss"])

    return go


def _in_turn(
    calls: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of calls that take turns, and what each returned last."""
    seconds, found = {name: [] for name in calls}, {}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            found[name] = jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in seconds.items()}, found


def table(results: dict[str, Any]) -> str:
    """Both measurements as text."""
    lines = [
        "gradient through Adam's steps             MiB                 s  compiling, s"
    ]
    for each in results["whole"]:
        rungs = each["rungs"]
        first = next(iter(rungs.values()))
        for name, row in rungs.items():
            less = first["temporary_bytes"] / row["temporary_bytes"]
            size = f"{row['temporary_bytes'] / 2**20:.2f} ({less:.0f})"
            taken = f"{row['seconds']:.3g} ({row['seconds'] / first['seconds']:.2f})"
            lines.append(
                f"{each['num_steps']:6d} steps, {name:14s}{size:>19s}{taken:>18s}"
                f"{row['compile_seconds']:14.1f}"
            )
    found = results["rule"]
    lines += ["", f"learning a rule: {_told(found['setting'])}"]
    lines.append(
        "                              outer steps/s  inner steps/s  first call, s"
    )
    for name, row in found["ways"].items():
        lines.append(
            f"{name:30s}{row['outer_steps_per_second']:13.1f}"
            f"{row['inner_steps_per_second']:15.0f}{row['first_seconds']:15.1f}"
        )
    return "\n".join([*lines, "", LEGEND])


def _told(setting: dict[str, int]) -> str:
    return (
        f"{setting['num_tasks']} pairs of trainings of a 196-{setting['hidden']}-10 "
        f"perceptron, {setting['batch']} images a step, windows of {setting['window']}."
    )
