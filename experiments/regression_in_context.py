"""A transformer learns linear regression in context, and is held against what is best.

A task is a linear function of its own; a causal transformer reads its points one after
another, and predicts each before it sees it. No predictor beats ridge regression by the
variance of the noise. For each dimension this trains one transformer, and compares their
errors after each number of examples. Writes a table and a picture beside the runs:

python -m experiments.regression_in_context --workdir=DIR

After Garg, Tsipras, Liang, Valiant 2022 (arXiv 2208.01066), section 4, in low dimensions.
"""

import time

_STARTED = time.time()

from functools import partial
import json
import math
from pathlib import Path

from absl import flags

from experiments import command, door, sequences
from experiments.sequences import Reading

FLAGS = flags.FlagValues()
sequences.define_flags(FLAGS, length=21, num_tasks=64)
FLAGS.set_default("num_steps", 5000)
FLAGS.set_default("log_every_steps", 500)
FLAGS.set_default("num_test_tasks", 2000)
door.define_integers(FLAGS, "dims", ["3", "5"], "Dimensions of inputs.")
_NOISE = flags.DEFINE_float(
    "noise", 0.3, "Standard deviation of the noise in targets.", 0, flag_values=FLAGS
)


@flags.multi_flags_validator(
    ["noise", "rate"], "--noise and --rate must be finite", flag_values=FLAGS
)
def _finite(values):
    return all(map(math.isfinite, values.values()))


def experiment(reading: Reading, dim: int, noise: float):
    """Trains a transformer on linear functions of so many dimensions.

    Args:
      reading: the transformer, and how it is trained.
      dim: dimensions of inputs.
      noise: standard deviation of the noise in targets.
    """
    import jax
    import jax.numpy as jnp

    from experiments import running
    import metajax as mj

    sampler = mj.data.LinearRegression(dim, reading.length - 1, 1, noise_std=noise)
    reader = sequences.transformer(1, reading)
    predict = mj.predict_sequence(sequences.as_they_are(), reader)

    def objective(key, meta, task):
        del key
        sequence = sequences.in_a_row(task)
        before = jnp.tri(reading.length, k=-1, dtype=bool)

        def best(inputs, mask):
            support = sequence._replace(mask=mask)
            return mj.data.least_squares(support, inputs[None], noise**2)[0]

        predictions = {
            "transformer": predict(meta, sequence),
            "ridge": jax.vmap(best)(sequence.inputs, before),
        }
        errors = {
            name: jnp.sum(jnp.square(outputs - sequence.targets), axis=1)
            for name, outputs in predictions.items()
        }
        return jnp.mean(errors["transformer"]), errors

    measure = partial(
        running.on_tasks,
        sampler,
        {tuple(range(reading.length)): objective},
        axis="examples before",
    )
    return sequences.experiment(
        reader,
        mj.losses.squared_error,
        sampler,
        rate=reading.rate,
        num_tasks=reading.num_tasks,
        validation=measure(
            seed=running.VALIDATION, num_tasks=reading.num_validation_tasks
        ),
        test=measure(seed=running.TEST, num_tasks=reading.num_test_tasks),
        metric=running.Metric("transformer"),
        shown=_shown(dim, reading.length),
    )


def _shown(dim: int, length: int) -> list[int]:
    """The numbers of examples that tables have."""
    return sorted({0, dim, 2 * dim, length - 1} & set(range(length)))


def read(directory: Path) -> dict[str, list]:
    """Mean errors by number of examples, and their paired difference with its interval."""
    import numpy as np

    import metajax as mj

    result = json.loads((directory / "result.json").read_text())
    places = [row["examples_before"] for row in result["rows"]]
    with np.load(directory / "result.npz") as values:
        pairs = [(values[f"transformer_{p}"], values[f"ridge_{p}"]) for p in places]
    return {
        "transformer": [float(one.mean()) for one, _ in pairs],
        "ridge": [float(least.mean()) for _, least in pairs],
        "excess": [mj.mean_and_interval(one - least) for one, least in pairs],
    }


def table(fits: dict[int, dict], reading: Reading, noise: float) -> str:
    """A few lines a number of dimensions."""
    lines = [
        f"Squared error on {reading.num_test_tasks} tasks with noise of {noise}; the "
        "excess over ridge regression is paired (95%)",
        "dim   examples   transformer   ridge         excess",
    ]
    for dim, each in fits.items():
        for k in _shown(dim, reading.length):
            excess, interval = each["excess"][k]
            lines.append(
                f"{dim:3d} {k:10d} {each['transformer'][k]:13.3f} "
                f"{each['ridge'][k]:7.3f} {excess:7.3f} +- {interval:.3f}"
            )
    return "\n".join(lines)


def picture(fits: dict[int, dict], path: Path) -> None:
    """The in-context curves beside the best there are."""
    from experiments.running.pictures import plt, save

    figure, axes = plt.subplots(
        1, len(fits), figsize=(4.5 * len(fits), 3.5), squeeze=False
    )
    for (dim, each), axis in zip(fits.items(), axes[0]):
        axis.plot(each["transformer"], color="tab:orange", label="transformer")
        axis.plot(each["ridge"], "--", color="tab:blue", label="ridge regression")
        axis.set(xlabel="examples before", title=f"{dim} dimensions", yscale="log")
        axis.legend()
    axes[0, 0].set_ylabel("squared error")
    save(figure, path)


def run(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    reading, noise = sequences.reading(FLAGS), _NOISE.value
    return command.run_study(
        FLAGS,
        "dim",
        {
            dim: partial(experiment, reading, dim, noise)
            for dim in sorted({int(dim) for dim in FLAGS.dims})
        },
        read=read,
        table=partial(table, reading=reading, noise=noise),
        picture=picture,
        free=("dims", "num_test_tasks"),
        started=started,
    )


if __name__ == "__main__":
    command.start(FLAGS, partial(run, _STARTED), about=__doc__)
