"""How an outer step takes more devices: measured here, and reckoned for many more."""

from functools import partial
import json
from pathlib import Path
import re
from statistics import median
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.running import startup
import metajax as mj
from metajax import trees

WIDTHS = {"conv4 of 64 features": 64, "conv4 of 256 features": 256}
MANY = (1, 8, 64, 512)
# What the reckoning assumes of the links between devices.
BYTES_A_SECOND, SECONDS_A_HOP = 25e9, 5e-6
LEGEND = f"""\
Tasks: 16 a device, 5-way 1-shot Omniglot, one inner step, one task at a time.
Measured: on the devices of this machine, which on a CPU may share its cores; over 1 is
the step over that of one device, which has as many tasks as each of several; error is
how far the meta-gradient is from that which one device finds for all of the tasks.
Reckoned: the measured step of one device, and a ring of all devices, each of which passes
on 2 (n - 1) parts of 1 / n of the meta-gradient, at {BYTES_A_SECOND / 1e9:.0f} GB/s and
{SECONDS_A_HOP * 1e6:.0f} us each, not overlapped with arithmetic."""


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Measures both widths on every number of devices, and writes `devices.json`."""
    if jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", startup.num_cores())
    numbers = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    found = {
        name: [_measure(width, number, quick) for number in numbers]
        for name, width in list(WIDTHS.items())[: 1 if quick else None]
    }
    (out / "devices.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(found: dict[str, Any]) -> str:
    """Measured rows, and the reckoned ones."""
    lines = [
        f"{'':24s} devices   ms a step   over 1   all-reduces   their bytes    error"
    ]
    for name, rows in found.items():
        for row in rows:
            ratio = row["seconds"] / rows[0]["seconds"]
            lines.append(
                f"{name:24s} {row['devices']:7d} {1e3 * row['seconds']:11.1f} "
                f"{ratio:8.2f} {row['all_reduces']:13d} {row['bytes']:13,d}"
                f"{row['error']:9.1e}"
            )
    lines.append(f"{'reckoned':24s} devices   ms a step   of it between devices")
    for name, rows in found.items():
        for number in MANY:
            talk = _ring(rows[0]["bytes_held"], number)
            seconds = rows[0]["seconds"] + talk
            lines.append(
                f"{name:24s} {number:7d} {1e3 * seconds:11.1f} {talk / seconds:12.1%}"
            )
    return "\n".join([*lines, LEGEND])


def _ring(num_bytes: int, number: int) -> float:
    """Seconds of an all-reduce."""
    hops = 2 * (number - 1)
    return hops * (num_bytes / number / BYTES_A_SECOND + SECONDS_A_HOP)


def _measure(width: int, number: int, quick: bool) -> dict[str, Any]:
    model, loss = mj.models.conv4(5, width=width), mj.losses.cross_entropy
    learner = mj.maml(model, loss, optax.sgd(0.4), 1)
    mesh = mj.estimators.task_mesh(number)
    estimate = partial(
        mj.estimators.backprop, mj.query_loss(learner, loss), tasks_per_chunk=1
    )
    meta_grad = estimate(mesh=mesh)
    step = mj.train_step(meta_grad, optax.adam(1e-3))
    images = np.random.default_rng(0).random((16 * number, 2, 5, 28, 28, 1), np.float32)
    labels = np.tile(np.arange(5), (16 * number, 1))
    tasks = mj.Task(mj.Batch(images[:, 0], labels), mj.Batch(images[:, 1], labels))
    meta = jax.jit(model.init)(jax.random.key(0), images[0, 0])
    _, alone = jax.jit(estimate())(jax.random.key(0), meta, tasks)
    _, shared = jax.jit(meta_grad)(jax.random.key(0), meta, tasks)
    difference = optax.tree.sub(jax.device_get(shared), jax.device_get(alone))
    state = mj.TrainState(
        jnp.int32(0), jax.random.key(0), meta, optax.adam(1e-3).init(meta)
    )
    state = jax.device_put(state, jax.NamedSharding(mesh, jax.P()))
    tasks = jax.device_put(tasks, jax.NamedSharding(mesh, jax.P("tasks")))
    compiled = jax.jit(step).lower(state, tasks).compile()
    sizes = re.findall(r"= f32\[(\d*)\]\S* all-reduce", compiled.as_text())
    seconds = []
    for _ in range(3 if quick else 8):  # The first warms up.
        start = time.perf_counter()
        jax.block_until_ready(compiled(state, tasks))
        seconds.append(time.perf_counter() - start)
    return {
        "devices": number,
        "seconds": median(seconds[1:]),
        "all_reduces": len(sizes),
        "bytes": 4 * sum(int(size or 1) for size in sizes),
        "error": float(optax.tree.norm(difference) / optax.tree.norm(alone)),
        "bytes_held": 4 * trees.size(meta),
    }
