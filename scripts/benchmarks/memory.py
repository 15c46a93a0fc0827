"""The memory ladder: temporaries and time of each way to differentiate an inner loop."""

from collections.abc import Callable, Sequence
import json
from pathlib import Path
from statistics import median
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj
from metajax.adjoints import mixed_mode, unroll
from metajax.losses import cross_entropy

STEPS = (1, 2, 4, 8, 16, 32)
VOCABULARY = 256
BLOCKS = " + blocks"  # Of the model, rematerialised.
RUNGS = {
    "full": unroll(),
    "step": unroll(remat="step"),
    "nested": unroll(remat="nested"),
    "mixed": mixed_mode(remat="none"),
    "mixed step": mixed_mode(),
    "mixed nested": mixed_mode(remat="nested"),
}
BLOCK_RUNGS = ("mixed step", "mixed nested")
LEGEND = """\
MiB: what the compiled meta-gradient allocates beside its arguments and results; in
brackets, how many times less than the full unroll. s: median time; in brackets, of that
of the full unroll. error: of the meta-gradient, relative to the full unroll's."""


class Case(NamedTuple):
    """What is differentiated: a model, an inner optimizer, and tasks."""

    name: str
    model: Callable[[bool], mj.Model]  # From whether it rematerialises its blocks.
    optimizer: Callable[[Any], optax.GradientTransformation]  # From learned rates.
    tasks: mj.Task
    steps: Sequence[int]
    chunk: int | None = None
    learned_rates: bool = False

    @property
    def rungs(self) -> list[str]:
        blocks = [name + BLOCKS for name in BLOCK_RUNGS]
        return [*RUNGS, *blocks] if self.name.startswith("transformer") else [*RUNGS]


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Measures every case on every rung, and writes `memory.json` and `memory.png`.

    Args:
      out: the directory for both.
      quick: whether to take smaller models and fewer inner steps.

    Returns:
      What `table` and `figure` take: `{"rows": [...]}`.
    """
    rows = []
    for case in cases(quick):
        for num_steps in case.steps:
            rows += measure(case, num_steps, case.rungs, rounds=1 if quick else 2)
            results = {"rows": rows}
            (out / "memory.json").write_text(json.dumps(results, indent=1) + "\n")
    figure(results, out / "memory.png")
    return results


def cases(quick: bool) -> list[Case]:
    """Conv4 in chunks of tasks, and a transformer under three inner optimizers.

    Args:
      quick: whether to take the first two of them alone, small.
    """
    num_tasks, layers, size = (8, 2, 32) if quick else (32, 4, 128)
    steps = (1, 8) if quick else STEPS
    images, tokens = _images(num_tasks), _tokens(8, size)

    def conv4(remat):
        del remat  # It has no blocks.
        return mj.models.conv4(ways=5)

    def transformer(remat):
        return mj.models.transformer(
            VOCABULARY, width=size, layers=layers, heads=4, length=size, remat=remat
        )

    def adam(rates):
        del rates
        return optax.adam(1e-3, eps_root=1e-8)

    pictures = Case("conv4, 1 at a time", conv4, _sgd(0.4), images, steps, chunk=1)
    text = Case("transformer, SGD", transformer, _sgd(0.1), tokens, steps)
    if quick:
        return [pictures, text]
    at_once = pictures._replace(
        name=f"conv4, {num_tasks} at a time", chunk=None, steps=(1, 8)
    )
    text_adam = text._replace(name="transformer, Adam", optimizer=adam, steps=(8,))
    text_rates = text_adam._replace(
        name="transformer, learned rates", optimizer=_learned_rates, learned_rates=True
    )
    return [pictures, at_once, text, text_adam, text_rates]


def measure(
    case: Case, num_steps: int, rungs: Sequence[str], rounds: int
) -> list[dict[str, Any]]:
    """One row a rung: temporaries, median time of interleaved runs, error."""
    meta = _init(case)
    compiled, seconds, gradients = {}, {name: [] for name in rungs}, {}
    for name in rungs:
        start = time.perf_counter()
        gradient = jax.jit(_meta_gradient(case, name, num_steps))
        lowered = gradient.lower(jax.random.key(0), meta, case.tasks)
        compiled[name] = lowered.compile(), time.perf_counter() - start
    for i in range(rounds + 1):  # The first warms up.
        for name, (gradient, _) in compiled.items():
            start = time.perf_counter()
            result = gradient(jax.random.key(0), meta, case.tasks)
            gradients[name] = jax.block_until_ready(result)[1]
            if i:
                seconds[name].append(time.perf_counter() - start)
    return [
        {
            "case": case.name,
            "num_steps": num_steps,
            "rung": name,
            "temporary_bytes": executable.memory_analysis().temp_size_in_bytes,
            "seconds": median(seconds[name]),
            "compile_seconds": compile_seconds,
            "error": _distance(gradients[name], gradients["full"]),
        }
        for name, (executable, compile_seconds) in compiled.items()
    ]


def table(results: dict[str, Any]) -> str:
    """The rows as text, a block a case."""
    blocks = []
    for case in dict.fromkeys(row["case"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["case"] == case]
        steps = list(dict.fromkeys(row["num_steps"] for row in rows))
        cells = {(row["rung"], row["num_steps"]): row for row in rows}
        lines = [f"{case}, inner steps:".ljust(28) + "".join(f"{n:>16}" for n in steps)]
        for rung in dict.fromkeys(row["rung"] for row in rows):
            line = [(cells[rung, n], cells["full", n]) for n in steps]
            error = max(row["error"] for row, _ in line)
            lines += [
                f"{rung:<25}MiB" + "".join(_memory(*pair) for pair in line),
                f"  error {error:<17.0e}s  " + "".join(_time(*pair) for pair in line),
            ]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, LEGEND])


def figure(results: dict[str, Any], path: Path) -> None:
    """Temporaries over inner steps, a panel a case and a line a rung."""
    from matplotlib.figure import Figure  # Takes a second to import.

    rows = results["rows"]
    names = list(dict.fromkeys(row["case"] for row in rows))
    picture = Figure(figsize=(4 * len(names), 4), layout="constrained")
    panels = picture.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names):
        for rung in dict.fromkeys(row["rung"] for row in rows if row["case"] == name):
            line = [row for row in rows if (row["case"], row["rung"]) == (name, rung)]
            steps = [row["num_steps"] for row in line]
            sizes = [row["temporary_bytes"] / 2**20 for row in line]
            panel.plot(steps, sizes, marker="o", label=rung)
        panel.set(title=name, xlabel="inner steps", xscale="log", yscale="log")
        panel.set_xticks(steps, steps)
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("temporaries, MiB")
    picture.savefig(path, dpi=120)


def _memory(row: dict[str, Any], full: dict[str, Any]) -> str:
    times = full["temporary_bytes"] / row["temporary_bytes"]
    return f"{row['temporary_bytes'] / 2**20:.1f} ({times:.1f})".rjust(16)


def _time(row: dict[str, Any], full: dict[str, Any]) -> str:
    return f"{row['seconds']:.3g} ({row['seconds'] / full['seconds']:.2f})".rjust(16)


def _images(num_tasks: int) -> mj.Task:
    """5-way 1-shot tasks of one query a class, of sparse random images."""
    rng = np.random.default_rng(0)

    def batch():
        inputs = rng.random((num_tasks, 5, 28, 28, 1)) < 0.1
        targets = np.tile(np.arange(5), (num_tasks, 1))
        return mj.Batch(jnp.asarray(inputs, jnp.float32), jnp.asarray(targets))

    return mj.Task(batch(), batch())


def _tokens(examples: int, length: int) -> mj.Task:
    """One task: to predict the next of random tokens, on other sequences as queries."""
    rng = np.random.default_rng(0)

    def batch():
        tokens = jnp.asarray(rng.integers(0, VOCABULARY, (1, examples, length + 1)))
        return mj.Batch(tokens[..., :-1], tokens[..., 1:])

    return mj.Task(batch(), batch())


def _sgd(rate: float) -> Callable[[Any], optax.GradientTransformation]:
    return lambda rates: optax.sgd(rate)


def _learned_rates(rates: Any) -> optax.GradientTransformation:
    def update(grads, state, params):
        del params
        return jax.tree.map(lambda rate, grad: -rate * grad, rates, grads), state

    return optax.GradientTransformation(lambda params: (), update)


def _init(case: Case) -> Any:
    """Params, and a rate for each of them where rates are learned."""
    inputs = case.tasks.support.inputs[0]
    params = jax.jit(case.model(False).init)(jax.random.key(0), inputs)
    rates = jax.tree.map(lambda x: jnp.full_like(x, 0.1), params)
    return params, rates if case.learned_rates else ()


def _meta_gradient(case: Case, rung: str, num_steps: int) -> Callable:
    model = case.model(rung.endswith(BLOCKS))
    adjoint = RUNGS[rung.removesuffix(BLOCKS)]

    def loss(params, batch):
        return cross_entropy(model.apply(params, batch.inputs), batch.targets)

    def objective(key, meta, task):
        del key  # Nothing is random.
        params, rates = meta
        solve = adjoint(loss, case.optimizer(rates), num_steps)
        value = loss(solve(params, task.support), task.query)
        return value, {"loss": value}

    return mj.estimators.backprop(objective, tasks_per_chunk=case.chunk)


def _distance(actual: Any, expected: Any) -> float:
    difference = jax.tree.map(jnp.subtract, actual, expected)
    return float(optax.tree.norm(difference) / optax.tree.norm(expected))
