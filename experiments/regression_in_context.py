"""A transformer learns linear regression in context, and is held against what is best.

A task is a linear function of its own; a causal transformer reads its points one after
another, and predicts each before it sees it. No predictor beats ridge regression by the
variance of the noise. For each dimension this trains one transformer, and compares their
errors after each number of examples. Writes a table, JSON and a picture:

python -m experiments.regression_in_context --workdir=DIR

After Garg, Tsipras, Liang, Valiant 2022 (arXiv 2208.01066), section 4, in low dimensions.
"""

from functools import partial
import json
import math
from pathlib import Path
import sys

from absl import app, flags
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from experiments.transition import EMBEDDING, in_a_row, train
from experiments.workdirs import write_whole
import metajax as mj

# Its own, so that it can be imported beside the runner, with flags of the same names.
FLAGS = flags.FlagValues()
_integer = partial(flags.DEFINE_integer, lower_bound=1, flag_values=FLAGS)
_float = partial(flags.DEFINE_float, flag_values=FLAGS)

flags.DEFINE_string("workdir", None, "Where the results go.", flag_values=FLAGS)
_integer("seed", 0, "Fixes initial parameters and tasks.", lower_bound=0)
flags.DEFINE_list("dims", ["3", "5"], "Dimensions of inputs.", flag_values=FLAGS)
_integer("length", 21, "Points of a task.", lower_bound=2)
_float("noise", 0.3, "Standard deviation of the noise in targets.", lower_bound=0)
_integer("width", 64, "Of the transformer's tokens.")
_integer("layers", 3, "Its blocks.")
_integer("heads", 4, "Their heads, which divide the width.")
_integer("num_tasks", 64, "Tasks a step.")
_integer("num_steps", 5000, "Steps of Adam.")
_integer("num_test_tasks", 2000, "Tasks that each is judged on.", lower_bound=2)
_float("rate", 1e-3, "Rate of Adam.", lower_bound=0)
flags.mark_flag_as_required("workdir", flag_values=FLAGS)


@flags.validator("dims", "must be integers, such as 3,5", flag_values=FLAGS)
def _numbers(numbers):
    return bool(numbers) and all(n.isdecimal() and int(n) for n in numbers)


@flags.multi_flags_validator(
    ["width", "heads"], "--heads must divide --width", flag_values=FLAGS
)
def _heads(values):
    return values["width"] % values["heads"] == 0


@flags.multi_flags_validator(
    ["noise", "rate"], "--noise and --rate must be finite", flag_values=FLAGS
)
def _finite(values):
    return all(map(math.isfinite, values.values()))


def fit(config, dim: int) -> dict:
    """Squared errors after each number of examples: the transformer's, and the least."""
    shots = config.length - 1
    sampler = mj.data.LinearRegression(dim, shots, 1, noise_std=config.noise)
    reader = mj.models.in_context_transformer(
        1,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        length=config.length,
    )
    loss = mj.losses.squared_error
    meta, _ = train(config, reader, loss, sampler, f"{dim} dimensions")
    predict = mj.predict_sequence(EMBEDDING, reader)

    def objective(key, meta, task):
        del key
        sequence = in_a_row(task)
        before = jnp.tri(config.length, k=-1, dtype=bool)

        def best(inputs, mask):
            support = sequence._replace(mask=mask)
            return mj.data.least_squares(support, inputs[None], config.noise**2)[0]

        predictions = {
            "transformer": predict(meta, sequence),
            "ridge": jax.vmap(best)(sequence.inputs, before),
        }
        errors = {
            name: jnp.sum(jnp.square(outputs - sequence.targets), axis=1)
            for name, outputs in predictions.items()
        }
        return jnp.mean(errors["transformer"]), errors

    found = mj.evaluate(
        objective,
        meta,
        sampler,
        key=jax.random.key(1_000_002),
        num_tasks=config.num_test_tasks,
    )
    pairs = [np.transpose(found.values[name]) for name in ("transformer", "ridge")]
    excess = [mj.mean_and_interval(one - least) for one, least in zip(*pairs)]
    return {
        "dim": dim,
        "tasks_hash": found.tasks_hash,
        "transformer": pairs[0].mean(axis=1).tolist(),
        "ridge": pairs[1].mean(axis=1).tolist(),
        "excess": [list(each) for each in excess],
    }


def table(config, fits: list[dict]) -> str:
    lines = [
        f"Squared error on {config.num_test_tasks} tasks with noise of {config.noise}; the "
        "excess over ridge regression is paired (95%)",
        "dim   examples   transformer   ridge         excess",
    ]
    for each in fits:
        shown = sorted({0, each["dim"], 2 * each["dim"], config.length - 1})
        for k in (k for k in shown if k < config.length):
            excess, interval = each["excess"][k]
            lines.append(
                f"{each['dim']:3d} {k:10d} {each['transformer'][k]:13.3f} "
                f"{each['ridge'][k]:7.3f} {excess:7.3f} +- {interval:.3f}"
            )
    return "\n".join(lines)


def picture(fits: list[dict], path: Path) -> None:
    """The in-context curves beside the best there are."""
    figure, axes = plt.subplots(
        1, len(fits), figsize=(4.5 * len(fits), 3.5), squeeze=False
    )
    for each, axis in zip(fits, axes[0]):
        axis.plot(each["transformer"], color="tab:orange", label="transformer")
        axis.plot(each["ridge"], "--", color="tab:blue", label="ridge regression")
        axis.set(xlabel="examples before", title=f"{each['dim']} dimensions")
        axis.set(yscale="log")
        axis.legend()
    axes[0, 0].set_ylabel("squared error")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(config) -> int:
    """Does what the flags say, and returns the exit code."""
    workdir = Path(config.workdir)
    try:
        if (workdir / "result.json").exists():
            raise ValueError(f"{workdir} holds a finished run: choose another.")
        workdir.mkdir(parents=True, exist_ok=True)
        fits = [fit(config, int(dim)) for dim in config.dims]
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    text = table(config, fits)
    print(text)
    (workdir / "result.txt").write_text(text + "\n")
    picture(fits, workdir / "result.png")
    names = sorted(set(FLAGS) - {"workdir"})
    record = {"flags": {name: config[name].value for name in names}, "fits": fits}
    write_whole(workdir / "result.json", json.dumps(record, indent=1) + "\n")
    return 0


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    sys.exit(run(flags.FLAGS))


if __name__ == "__main__":
    flags.FLAGS.append_flag_values(FLAGS)
    app.run(main)
