"""Measures how wrong approximations of the meta-gradient are, and what they cost.

    python scripts/check_hypergrad.py --out=DIR

Conv4 on few-shot tasks with inner SGD, at a number of inner steps, in two problems with
an exact meta-gradient each: the support loss of MAML, and the proximal loss of iMAML.
Writes a table, JSON rows and a picture.
"""

from functools import partial
import json
from pathlib import Path
import sys
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import optax

import metajax as mj
from metajax.adjoints import cg, gmres, implicit, mixed_mode, neumann, unroll
from metajax.base import Estimator, MetaParams, Model
from metajax.data.tfds_arrays import DataError
from metajax.hypergrad import hypergrad_table
from scripts.benchmarks import machine
from scripts.benchmarks.processes import WorkerError

LEGEND = """\
cosine, error: of the meta-gradient, beside that of the first line, which is exact;
rescaled: the error after the best rescaling of the estimate, sqrt(1 - cosine^2)
ms: median of rounds in turn; other work on the machine makes it an upper bound
MiB: what the compiled estimator allocates beside its arguments and results
of exact: ms and MiB over those of the first line
inner_gradient: norm of what the inner loop leaves over that before it, 0 at rest
solver_residual: of the linear system at rest, relative to its right-hand side
Displacement is no gradient and has a scale of its own: only cosine and rescaled tell.
Evolution is one draw. t1_t2 takes the Hessian for 0, as first order does."""

_OUT = flags.DEFINE_string("out", "runs/hypergrad", "Where results are written.")
_DATA = flags.DEFINE_enum("data", "omniglot", ["omniglot", "glyphs"], "What to learn.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in experiments.few_shot.")
_STEPS = flags.DEFINE_list(
    "steps", ["1", "2", "4", "8", "16"], "Inner steps, by comma."
)
_METHODS = flags.DEFINE_list("methods", [], "Some, by names in the table; or all.")
_NUM_TASKS = flags.DEFINE_integer("num_tasks", 8, "Tasks of a meta-gradient.")
_CHUNK = flags.DEFINE_integer("tasks_per_chunk", 1, "Tasks differentiated at a time.")
_WAYS = flags.DEFINE_integer("ways", 5, "Classes a task.")
_SHOTS = flags.DEFINE_integer("shots", 1, "Support examples a class.")
_QUERIES = flags.DEFINE_integer("queries", 1, "Query examples a class.")
_WIDTH = flags.DEFINE_integer("width", 64, "Of Conv4.")
_INNER_RATE = flags.DEFINE_float("inner_rate", 0.4, "Of SGD on the support loss.")
_PROXIMAL_RATE = flags.DEFINE_float(
    "proximal_rate", 0.1, "Of SGD on the proximal loss."
)
_REGULARIZATION = flags.DEFINE_float("regularization", 2.0, "Of the proximal loss.")
_PAIRS = flags.DEFINE_integer("pairs", 8, "Of evolution.")
_STD = flags.DEFINE_float("std", 0.01, "Of evolution.")
_TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps", 200, "Outer steps of MAML, of one inner step, before the comparison."
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timings of each, in turn.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Fixes parameters and tasks.")
_PLATFORM = flags.DEFINE_enum(
    "platform", "auto", ["auto", "cpu", "gpu", "tpu"], "Where to run."
)

flags.register_validator(
    "steps",
    lambda steps: bool(steps) and all(n.isdecimal() and int(n) for n in steps),
    message="must be positive numbers by comma",
)


def prepare(model: Model) -> tuple[MetaParams, mj.Task]:
    """Params after a little training, and tasks that were not in it."""
    kind = {} if _DATA.value == "glyphs" else {"data_dir": _DATA_DIR.value}
    data = getattr(mj.data, _DATA.value)("train", **kind)
    sampler = mj.data.FewShot(data, _WAYS.value, _SHOTS.value, _QUERIES.value)
    learner = mj.maml(model, mj.losses.cross_entropy, _inner(), 1)
    outer, keys = optax.adam(1e-3), jax.random.split(jax.random.key(_SEED.value))
    state = mj.init_state(keys[0], learner, outer, sampler)
    if _TRAIN_STEPS.value:
        step = mj.train_step(_backprop(learner), outer)
        state, _ = mj.train(
            step, state, sampler, num_tasks=32, num_steps=_TRAIN_STEPS.value
        )
    tasks = mj.draw_tasks(keys[1], sampler, jnp.arange(_NUM_TASKS.value))
    return state.meta, tasks


def problems(model: Model, num_steps: int) -> dict[str, dict[str, Estimator]]:
    """The two inner problems, each with its estimators; the first is exact."""
    loss, inner = mj.losses.cross_entropy, _inner()
    rate, regularization = _PROXIMAL_RATE.value, _REGULARIZATION.value
    maml = partial(mj.maml, model, loss, inner, num_steps)
    imaml = partial(mj.imaml, model, loss, optax.sgd(rate), num_steps)
    chunk, half = _CHUNK.value, num_steps // 2
    adjoints = {
        "unroll": unroll(),
        "first_order": unroll(last=0),
        "last_step": unroll(last=1),
        **({"last_half": unroll(last=half)} if half > 1 else {}),
        "mixed_mode": mixed_mode(),
        "mixed_nested": mixed_mode(remat="nested"),
    }
    support = {name: _backprop(maml(adjoint=a)) for name, a in adjoints.items()}
    reptile = mj.reptile(model, loss, inner, num_steps)
    support["displacement"] = mj.estimators.displacement(
        reptile, loss, tasks_per_chunk=chunk
    )
    support["evolution"] = mj.estimators.evolution(
        mj.query_loss(maml(), loss),
        num_pairs=_PAIRS.value,
        std=_STD.value,
        tasks_per_chunk=chunk,
    )
    solvers = {f"cg_{n}": cg(n) for n in (1, 2, 5, 10, 20)}
    solvers |= {f"neumann_{n}": neumann(n, rate) for n in (5, 20)}
    solvers |= {"t1_t2": neumann(0, 1 / regularization), "gmres_10": gmres(10)}
    adjoints = {"unroll": unroll()} | {n: implicit(s) for n, s in solvers.items()}
    proximal = {
        name: _backprop(imaml(regularization=regularization, adjoint=adjoint))
        for name, adjoint in adjoints.items()
    }
    return {"support loss": support, "proximal loss": proximal}


def _inner() -> optax.GradientTransformation:
    return optax.sgd(_INNER_RATE.value)


def _backprop(learner: mj.MetaLearner) -> Estimator:
    objective = mj.query_loss(learner, mj.losses.cross_entropy)
    return mj.estimators.backprop(objective, tasks_per_chunk=_CHUNK.value)


def title() -> str:
    """The setting in words."""
    trained = f"after {_TRAIN_STEPS.value} outer steps of MAML"
    return (
        f"{_DATA.value}, conv4 of width {_WIDTH.value}, {_WAYS.value}-way "
        f"{_SHOTS.value}-shot, {_NUM_TASKS.value} tasks, {_CHUNK.value} at a time;\n"
        f"inner SGD of rate {_INNER_RATE.value:g}, or {_PROXIMAL_RATE.value:g} with "
        f"regularization {_REGULARIZATION.value:g};\nevolution by {_PAIRS.value} pairs of "
        f"std {_STD.value:g}; {trained if _TRAIN_STEPS.value else 'at initialisation'}"
    )


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Error over time and over memory, a row a problem, a larger dot more steps."""
    from matplotlib.figure import Figure  # Takes a second to import.

    names = list(dict.fromkeys(row["problem"] for row in rows))
    picture = Figure(figsize=(13, 5.5 * len(names)), layout="constrained")
    panels = picture.subplots(len(names), 2, squeeze=False, sharey="row")
    for name, (left, right) in zip(names, panels):
        some = [row for row in rows if row["problem"] == name]
        exact = {row["num_steps"]: row for row in some if row["method"] == "unroll"}
        _draw(left, some, exact, "seconds")
        _draw(right, some, exact, "temporaries")
        left.set(ylabel="relative error", xlabel="time over that of the exact unroll")
        right.set(xlabel="temporaries over those of the exact unroll")
        left.set_title(
            f"{name}; dots grow with inner steps: {', '.join(map(str, exact))}"
        )
        right.legend(bbox_to_anchor=(1.02, 1), loc="upper left", markerscale=0.6)
    picture.savefig(path, dpi=110)


def _draw(panel, rows: list[dict[str, Any]], exact: dict[int, Any], key: str) -> None:
    """A line a method; an error of 0 has no place on it."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for i, method in enumerate(methods[1:]):
        line = [
            row for row in rows if row["method"] == method and row["relative_error"]
        ]
        ratios = [row[key] / exact[row["num_steps"]][key] for row in line]
        errors = [row["relative_error"] for row in line]
        panel.plot(ratios, errors, color=f"C{i}", linewidth=1)
        sizes = [20 * row["num_steps"] ** 0.7 for row in line]
        panel.scatter(ratios, errors, sizes, color=f"C{i}", alpha=0.7, label=method)
    panel.axvline(1, color="black", linewidth=1, linestyle=":")
    panel.set(xscale="log", yscale="log")
    low, high = panel.get_xlim()
    ticks = [m * 10.0**n for n in range(-3, 3) for m in (1, 2, 5)]
    ticks = [tick for tick in ticks if low < tick < high]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.grid(alpha=0.3)


def run(out: Path, description: dict[str, Any]) -> None:
    """Measures every number of steps, and writes what there is after each."""
    model = mj.models.conv4(_WAYS.value, width=_WIDTH.value)
    known = {name: None for each in problems(model, 4).values() for name in each}
    wanted = {"unroll", *(_METHODS.value or known)}
    if unknown := wanted - known.keys():
        raise ValueError(f"--methods={min(unknown)}: choose among {', '.join(known)}.")
    (meta, tasks), rows = prepare(model), []
    text = [machine.lines(description), title()]
    for num_steps in map(int, _STEPS.value):
        for problem, estimators in problems(model, num_steps).items():
            checks = mj.check_hypergrad(
                {name: e for name, e in estimators.items() if name in wanted},
                meta,
                tasks,
                key=jax.random.key(_SEED.value + 1),
                rounds=_ROUNDS.value,
            )
            heading = f"{problem}, inner steps: {num_steps}"
            text.append(f"{heading}\n{hypergrad_table(checks)}")
            print(f"\n{text[-1]}", flush=True)
            where = {"problem": problem, "num_steps": num_steps}
            rows += [where | {"method": n} | c._asdict() for n, c in checks.items()]
            results = {"machine": description, "setting": title(), "rows": rows}
            (out / "hypergrad.json").write_text(json.dumps(results, indent=1) + "\n")
            (out / "hypergrad.txt").write_text("\n\n".join([*text, LEGEND]) + "\n")
    figure(rows, out / "hypergrad.png")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    out = Path(_OUT.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
        description = machine.describe(_PLATFORM.value)
        jax.config.update("jax_platforms", description["platform"])
        # On GPU and TPU the default would be less than float32.
        jax.config.update("jax_default_matmul_precision", "highest")
        run(out, description)
    except (DataError, OSError, ValueError, WorkerError) as error:
        sys.exit(str(error))
    print(f"\n{LEGEND}\n\nWritten to {out}.")


if __name__ == "__main__":
    app.run(main)
