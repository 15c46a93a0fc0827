"""Learns how far to trust each label: bilevel optimisation, by the adjoints alone.

    minimise over w, l2:  cross-entropy of params* on a few validation images, well labelled
    params* = argmin  sum_i w[y_i] loss_i / sum_i w[y_i] + l2 / 2 |params|^2

There are no tasks and no meta-learner. The inner loop trains a softmax regression on
digits of MNIST, halved in size, of whose even classes a share has the label of the next
digit. The hyperparameters are the logs of the weight w of each label and of l2. Every
outer step trains from the same start; what differs is how that training is
differentiated. Writes a table, JSON and a picture:

python -m experiments.noisy_labels --workdir=DIR
"""

from functools import partial
import json
import math
from pathlib import Path
import sys
import time
from typing import NamedTuple

from absl import app, flags, logging
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import optax

import metajax as mj

# Its own, so that it can be imported beside the runner, with flags of the same names.
FLAGS = flags.FlagValues()
_integer = partial(flags.DEFINE_integer, lower_bound=1, flag_values=FLAGS)
_float = partial(flags.DEFINE_float, flag_values=FLAGS)
_string = partial(flags.DEFINE_string, flag_values=FLAGS)

_string("workdir", None, "Where the table, JSON and picture go; made if absent.")
_string("data_dir", None, "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default.")
_integer("seed", 0, "Fixes images, noise and initial params.", lower_bound=0)
_integer("train_images", 200, "Training images a digit.", upper_bound=4000)
_integer("validation_images", 10, "Validation images a digit.", upper_bound=400)
_float("noise", 0.5, "Share of the even digits' labels that are wrong.")
_integer("num_inner_steps", 300, "Steps of training, by gradient descent.")
_float("inner_rate", 1.0, "Rate of the inner descent, whose momentum is 0.9.")
_float("l2", 0.01, "The regulariser to start from.")
_integer("num_outer_steps", 30, "Steps of Adam on the hyperparameters.")
_float("outer_rate", 0.1, "Its rate.")
_integer("last", 10, "Steps that the truncated derivative goes back.")
_integer("cg_iterations", 50, "The most that the implicit derivative takes.")
flags.DEFINE_list(
    "compared_steps",
    ["10", "30", "100", "300"],
    "Inner steps after which derivatives are compared, at the initial hyperparameters.",
    flag_values=FLAGS,
)
flags.mark_flag_as_required("workdir", flag_values=FLAGS)


@flags.validator("noise", "must be from 0 to 1", flag_values=FLAGS)
def _share(noise):
    return 0 <= noise <= 1


@flags.multi_flags_validator(
    ["inner_rate", "outer_rate", "l2"],
    "rates and l2 must be positive and finite",
    flag_values=FLAGS,
)
def _positive(values):
    return all(math.isfinite(value) and value > 0 for value in values.values())


@flags.multi_flags_validator(
    ["last", "num_inner_steps"],
    "--last must be at most --num_inner_steps",
    flag_values=FLAGS,
)
def _last(values):
    return values["last"] <= values["num_inner_steps"]


@flags.validator(
    "compared_steps", "must be integers, such as 10,100", flag_values=FLAGS
)
def _steps(steps):
    return bool(steps) and all(step.isdecimal() and int(step) for step in steps)


MODEL = mj.models.mlp([], 10)


class Data(NamedTuple):
    """What training starts from, learns from, and is judged on."""

    start: mj.base.Params
    train: mj.Batch
    validation: mj.Batch


def training_loss(params, args):
    """The inner loss: weighted by label, and regularised; `args` is (hyper, batch)."""
    hyper, batch = args
    each = optax.softmax_cross_entropy_with_integer_labels(
        MODEL.apply(params, batch.inputs), batch.targets
    )
    # A weighted mean, whose curvature (and so the best rate) does not grow with w.
    weights = jax.nn.softmax(hyper["log_weights"])[batch.targets]
    fit = jnp.sum(weights * each) / jnp.sum(weights)
    size = optax.tree.norm(params, squared=True)
    return fit + jnp.exp(hyper["log_l2"]) / 2 * size


def validation_loss(adjoint: mj.base.Adjoint, rate: float, num_steps: int):
    """The outer loss, `(hyper, data) -> (loss, fitted params)`."""
    solve = adjoint(training_loss, optax.sgd(rate, momentum=0.9), num_steps)

    def loss(hyper, data: Data):
        fitted = solve(data.start, (hyper, data.train))
        outputs = MODEL.apply(fitted, data.validation.inputs)
        return mj.losses.cross_entropy(outputs, data.validation.targets), fitted

    return loss


def initial(l2: float):
    """The hyperparameters to start from: all labels count the same."""
    return {"log_weights": jnp.zeros(10), "log_l2": jnp.log(l2)}


def adjoints(config) -> dict[str, mj.base.Adjoint]:
    """The ways to differentiate training that are compared, by name."""
    last, iterations = config.last, config.cg_iterations
    return {
        "unroll()": mj.adjoints.unroll(),
        'unroll(remat="nested")': mj.adjoints.unroll(remat="nested"),
        f"unroll(last={last})": mj.adjoints.unroll(last=last),
        f"implicit(cg({iterations}))": mj.adjoints.implicit(mj.adjoints.cg(iterations)),
    }


def draw(rng, split: str, number: int | None, data_dir: str | None) -> mj.Batch:
    """So many images of each digit, or all, pooled to 14 x 14, with their true labels."""
    digits = mj.data.mnist(split, data_dir=data_dir)
    rows = [row[:count] for row, count in zip(digits.rows, digits.counts)]
    if number is not None:
        rows = [rng.choice(row, number, replace=False) for row in rows]
    images = np.asarray(digits.inputs)[np.concatenate(rows)].astype(np.float32) / 255
    pooled = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
    return mj.Batch(pooled, np.repeat(np.arange(10), [len(row) for row in rows]))


def load(config) -> tuple[Data, mj.Batch, mj.Batch]:
    """Noisy data, the training images with their true labels, and the test images."""
    rng = np.random.default_rng(config.seed)
    parts = {"train": config.train_images, "validation": config.validation_images}
    batches = [draw(rng, part, n, config.data_dir) for part, n in parts.items()]
    batches.append(draw(rng, "test", None, config.data_dir))
    mean = batches[0].inputs.mean(0, keepdims=True)  # Centred, training is faster.
    batches = [mj.Batch(inputs - mean, targets) for inputs, targets, _ in batches]
    train, validation, test = jax.tree.map(jnp.asarray, batches)
    labels = batches[0].targets
    wrong = (labels % 2 == 0) & (rng.random(len(labels)) < config.noise)
    noisy = train._replace(targets=train.targets + jnp.asarray(wrong, jnp.int32))
    start = MODEL.init(jax.random.key(config.seed), train.inputs[:1])
    return Data(start, noisy, validation), train, test


def trainer(config):
    """Training with given hyperparameters, and what came of it, compiled."""
    descend = mj.adjoints.unroll(last=0)
    train = validation_loss(descend, config.inner_rate, config.num_inner_steps)

    def fit(hyper, data: Data, test: mj.Batch):
        loss, fitted = train(hyper, data)
        gradient = jax.grad(training_loss)
        left, before = (gradient(p, (hyper, data.train)) for p in (fitted, data.start))
        right = jnp.argmax(MODEL.apply(fitted, test.inputs), axis=1) == test.targets
        return loss, optax.tree.norm(left) / optax.tree.norm(before), right

    return jax.jit(fit)


def judge(train, name: str, hyper, data: Data, test: mj.Batch) -> dict:
    """One line of the table; refuses a loss that is not finite with a ValueError."""
    loss, left, right = train(hyper, data, test)
    if not jnp.isfinite(loss):
        raise ValueError(
            f"{name}: the validation loss became {loss}: lower --inner_rate or "
            "--outer_rate, or raise --cg_iterations."
        )
    accuracy, interval = mj.mean_and_interval(np.asarray(right, np.float32))
    logging.info("%s: test accuracy %.1f%%", name, 100 * accuracy)
    return {
        "name": name,
        "validation_loss": float(loss),
        "accuracy": float(accuracy),
        "interval": float(interval),
        "inner_gradient": float(left),
        "l2": float(jnp.exp(hyper["log_l2"])),
        "weights": (10 * jax.nn.softmax(hyper["log_weights"])).tolist(),
    }


def compiled_step(config, adjoint, optimizer, hyper, data: Data):
    """`(hyper, state, data) -> (hyper, state, validation loss before)`, compiled."""
    loss = validation_loss(adjoint, config.inner_rate, config.num_inner_steps)

    def step(hyper, state, data):
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(hyper, data)
        updates, state = optimizer.update(grads, state, hyper)
        return optax.apply_updates(hyper, updates), state, value

    return jax.jit(step).lower(hyper, optimizer.init(hyper), data).compile()


def learn(config, data: Data) -> dict[str, tuple[dict, dict]]:
    """Descends the validation loss: by adjoint, the hyperparameters and what it took.

    The adjoints take their steps in turn, so that a busy moment meets all of them.
    """
    optimizer, hyper = optax.adam(config.outer_rate), initial(config.l2)
    ways = adjoints(config)
    steps = {
        n: compiled_step(config, a, optimizer, hyper, data) for n, a in ways.items()
    }
    states = dict.fromkeys(ways, (hyper, optimizer.init(hyper)))
    losses, seconds = ({name: [] for name in ways} for _ in range(2))
    for index in range(config.num_outer_steps):
        for name, step in steps.items():
            started = time.perf_counter()
            *states[name], value = step(*states[name], data)
            losses[name].append(float(value))  # Waits for it.
            seconds[name].append(time.perf_counter() - started)
        if (index + 1) % 5 == 0:
            now = ", ".join(
                f"{name} {values[-1]:.3f}" for name, values in losses.items()
            )
            text = "outer step %d of %d, validation loss %s"
            logging.info(text, index + 1, config.num_outer_steps, now)
    took = {
        name: {
            "losses": losses[name],
            "seconds": min(seconds[name]),  # Other work may share the cores.
            "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        }
        for name, step in steps.items()
    }
    return {name: (states[name][0], took[name]) for name in ways}


def compare(config, data: Data) -> list[dict]:
    """The derivatives after few and many inner steps, held against that at rest.

    The latter is the implicit one after ten times the most steps, with up to 1000
    iterations of conjugate gradients.
    """
    steps = sorted({int(step) for step in config.compared_steps})
    hyper = initial(config.l2)

    def derivative(adjoint, num_steps):
        loss = validation_loss(adjoint, config.inner_rate, num_steps)
        grads, _ = jax.jit(jax.grad(loss, has_aux=True))(hyper, data)
        return np.asarray(ravel_pytree(grads)[0], np.float64)

    def error(a, b):
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    precise = mj.adjoints.implicit(mj.adjoints.cg(1000))
    at_rest = derivative(precise, 10 * steps[-1])
    rows = []
    for number in steps:
        unrolled = derivative(mj.adjoints.unroll(), number)
        last = derivative(mj.adjoints.unroll(min(config.last, number)), number)
        solver = mj.adjoints.cg(config.cg_iterations)
        implicit = derivative(mj.adjoints.implicit(solver), number)
        norms = np.linalg.norm(implicit) * np.linalg.norm(unrolled)
        row = {
            "inner_steps": number,
            "unroll": error(unrolled, at_rest),
            "last": error(last, at_rest),
            "implicit": error(implicit, at_rest),
            "implicit_to_unroll": error(implicit, unrolled),
            "cosine": float(implicit @ unrolled / norms),
        }
        text = "derivatives after %d inner steps: implicit %.0e from unrolled"
        logging.info(text, number, row["implicit_to_unroll"])
        rows.append(row)
    return rows


def table(config, fits: list[dict], derivatives: list[dict]) -> str:
    """Both tables as text."""
    lines = [
        f"Softmax regression, {10 * config.train_images} training images of MNIST, "
        f"{config.noise:.0%} of the even digits' labels wrong;",
        f"{10 * config.validation_images} clean validation images, "
        f"{config.num_inner_steps} inner and {config.num_outer_steps} outer steps.",
        "",
        f"{'':26s} validation  test accuracy          inner     s per  temporaries",
        f"{'':26s}       loss          (95%)     l2 gradient outer step          MiB",
    ]
    for fit in fits:
        line = (
            f"{fit['name']:26s} {fit['validation_loss']:10.3f}   "
            f"{100 * fit['accuracy']:4.1f} +- {100 * fit['interval']:.1f}% "
            f"{fit['l2']:6.4f} {fit['inner_gradient']:8.0e}"
        )
        if "losses" in fit:
            mebibytes = fit["temporary_bytes"] / 2**20
            line += f" {fit['seconds']:10.2f} {mebibytes:12.1f}"
        lines.append(line)
    lines += [
        "",
        "Derivatives at the initial hyperparameters, relative error to that at rest:",
        f"inner steps   unroll()  unroll(last={config.last})  implicit  "
        "implicit to unroll(): error, cosine",
    ]
    for row in derivatives:
        lines.append(
            f"{row['inner_steps']:11d} {row['unroll']:10.0e} {row['last']:15.0e} "
            f"{row['implicit']:9.0e} {row['implicit_to_unroll']:28.0e} "
            f"{row['cosine']:8.4f}"
        )
    return "\n".join(lines)


def picture(fits: list[dict], derivatives: list[dict], path: Path) -> None:
    """Validation losses, errors of derivatives, and the weights that were learned."""
    unrolled, _, last, implicit = fits[-4:]
    styles = [
        (unrolled, "unroll", {"color": "0.55", "linewidth": 4}),
        (last, "last", {"color": "tab:blue"}),
        (implicit, "implicit", {"color": "tab:orange", "linestyle": "--"}),
    ]
    figure, (losses, errors, weights) = plt.subplots(1, 3, figsize=(12, 3.5))
    steps = [row["inner_steps"] for row in derivatives]
    for fit, key, style in styles:
        losses.plot(fit["losses"], label=fit["name"], **style)
        values = [row[key] for row in derivatives]
        errors.plot(steps, values, marker=".", label=fit["name"], **style)
    losses.set(xlabel="outer step", title="validation loss")
    errors.set(xscale="log", yscale="log", xlabel="inner steps")
    errors.set_title("hypergradient: error to that at rest")
    colors = ["tab:blue", "tab:orange"] * 5
    weights.bar(range(10), implicit["weights"], color=colors)
    weights.axhline(1, color="0.55", linestyle="--")
    weights.set(xlabel="label (the wrong ones are odd)", xticks=range(10))
    weights.set_title(f"weights by {implicit['name']}")
    for axis in (losses, errors):
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(config) -> int:
    """Does what the flags say, and returns the exit code."""
    workdir = Path(config.workdir)
    try:
        if (workdir / "result.json").exists():
            raise ValueError(f"{workdir} holds a finished run: choose another.")
        data, true, test = load(config)
        start = initial(config.l2)
        references = {
            "labels as they are": data,
            "true labels": data._replace(train=true),
            "validation images alone": data._replace(train=data.validation),
        }
        train = trainer(config)
        fits = [judge(train, n, start, d, test) for n, d in references.items()]
        workdir.mkdir(parents=True, exist_ok=True)
        derivatives = compare(config, data)
        for name, (hyper, took) in learn(config, data).items():
            fits.append(judge(train, name, hyper, data, test) | took)
    except (ValueError, OSError, mj.data.DataError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    text = table(config, fits, derivatives)
    print(text)
    (workdir / "result.txt").write_text(text + "\n")
    # Where this machine keeps things is nobody's business.
    names = sorted(set(FLAGS) - {"workdir", "data_dir"})
    record = {
        "flags": {name: config[name].value for name in names},
        "versions": {module.__name__: module.__version__ for module in (jax, optax)},
        "fits": fits,
        "derivatives": derivatives,
    }
    (workdir / "result.json").write_text(json.dumps(record, indent=1) + "\n")
    picture(fits, derivatives, workdir / "result.png")
    return 0


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    sys.exit(run(flags.FLAGS))


if __name__ == "__main__":
    flags.FLAGS.append_flag_values(FLAGS)
    app.run(main)
