"""From remembering tasks to learning them: one transformer, trained on ever more tasks.

A task is a random map of MNIST's pixels with a permutation of its digits. A causal
transformer reads examples of a task one after another, and says the label of each before
it sees it. Trained on few maps it can remember them; trained on many it has to learn from
the examples before, and then does so under maps that it has never met. For each number of
maps this trains one transformer, and judges it on unseen images, under the maps of its
training and under new ones. Writes a table, JSON and a picture:

python -m experiments.transition --workdir=DIR

Numbers that are done are not done again. After Kirsch, Harrison, Sohl-Dickstein, Metz 2022
(arXiv 2212.04458), section 4, at a fraction of its size.
"""

from functools import partial
import json
from pathlib import Path
import sys
import time

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import optax

from experiments.workdirs import write_whole
import metajax as mj

# Its own, so that it can be imported beside the runner, with flags of the same names.
FLAGS = flags.FlagValues()
_integer = partial(flags.DEFINE_integer, lower_bound=1, flag_values=FLAGS)
_string = partial(flags.DEFINE_string, flag_values=FLAGS)

_string("workdir", None, "Where the table, JSON and picture go; made if absent.")
_string("data_dir", None, "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default.")
_integer("seed", 0, "Fixes initial parameters and tasks.", lower_bound=0)
flags.DEFINE_list(
    "maps",
    ["1", "16", "256", "4096", "65536"],
    "Numbers of maps in training, each for a transformer of its own.",
    flag_values=FLAGS,
)
_integer("length", 50, "Examples of a task.", lower_bound=2)
_integer("size", 7, "Height and width that images are averaged to; divides 28.")
_integer("width", 64, "Of the transformer's tokens.")
_integer("layers", 3, "Its blocks.")
_integer("heads", 4, "Their heads, which divide the width.")
_integer("num_tasks", 16, "Tasks a step.")
_integer("num_steps", 10_000, "Steps of Adam.")
_integer("num_test_tasks", 400, "Tasks that each is judged on.", lower_bound=2)
flags.DEFINE_float("rate", 1e-3, "Rate of Adam.", lower_bound=0, flag_values=FLAGS)
flags.mark_flag_as_required("workdir", flag_values=FLAGS)

# Of which a result says nothing.
_UNRECORDED = ("workdir", "data_dir", "maps")
_LOG_STEPS = 500
_LAST = 10  # Places at the end of a task, whose mean is the accuracy reported.


@flags.validator("maps", "must be integers, such as 1,64,4096", flag_values=FLAGS)
def _numbers(numbers):
    return bool(numbers) and all(n.isdecimal() and int(n) for n in numbers)


@flags.validator("size", "must divide 28", flag_values=FLAGS)
def _divides(size):
    return 28 % size == 0


@flags.multi_flags_validator(
    ["width", "heads"], "--heads must divide --width", flag_values=FLAGS
)
def _heads(values):
    return values["width"] % values["heads"] == 0


EMBEDDING = mj.models.mlp([], None)  # Inputs as they are.


def reader(config) -> mj.Model:
    return mj.models.in_context_transformer(
        10,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        length=config.length,
    )


def tasks(config, split: str, num_maps: int | None) -> mj.data.Projections:
    """Tasks with images of one split; with new maps in each task if there is no number."""
    digits = mj.data.mnist(split, data_dir=config.data_dir)
    shots = config.length - 1
    return mj.data.Projections(digits, shots, 1, num_maps=num_maps, size=config.size)


def train(
    config, reader: mj.Model, loss: mj.base.Loss, sampler: mj.base.Sampler, name: str
) -> tuple[mj.base.MetaParams, list[float]]:
    """Trains a reader along sequences of tasks.

    Args:
      config: flags `seed`, `rate`, `num_tasks` and `num_steps`.
      reader: what reads examples in order.
      loss: of each prediction.
      sampler: draws tasks.
      name: what the log calls it.

    Returns:
      The meta-parameters, and the losses along the way.

    Raises:
      ValueError: if loss or gradient stay not finite.
    """
    learner = mj.in_context(EMBEDDING, reader)
    objective = mj.sequence_loss(EMBEDDING, reader, loss)
    optimizer = optax.adam(config.rate)
    key = jax.random.key(config.seed)
    state = mj.init_state(key, learner, optimizer, sampler)
    step = mj.train_step(mj.estimators.backprop(objective), optimizer)
    losses = []
    while int(state.step) < config.num_steps:
        before = int(state.step)
        state, metrics = mj.train(
            step,
            state,
            sampler,
            num_tasks=config.num_tasks,
            num_steps=min(_LOG_STEPS, config.num_steps - before),
            at_most=min(_LOG_STEPS, config.num_steps),
        )
        if int(state.step) == before:
            raise ValueError(
                f"loss or gradient stay not finite from step {before}: lower --rate."
            )
        losses.append(float(jnp.nanmean(metrics["loss"])))
        logging.info("%s, step %d: loss %.4f", name, state.step, losses[-1])
    return state.meta, losses


def in_a_row(task: mj.Task) -> mj.Batch:
    """The examples of a task, one after another."""
    pairs = zip(task.support[:2], task.query[:2])
    return mj.Batch(*[jnp.concatenate(pair) for pair in pairs])


def judge(config, meta: mj.base.MetaParams, num_maps: int | None) -> dict:
    """The accuracy on unseen images, by the number of examples that came before."""
    predict = mj.predict_sequence(EMBEDDING, reader(config))

    def objective(key, meta, task):
        del key
        sequence = in_a_row(task)
        right = jnp.argmax(predict(meta, sequence), axis=1) == sequence.targets
        return jnp.mean(right), {"right": right}

    found = mj.evaluate(
        objective,
        meta,
        tasks(config, "test", num_maps),
        key=jax.random.key(1_000_002),
        num_tasks=config.num_test_tasks,
        tasks_per_chunk=50,
    )
    right = found.values["right"].astype(np.float32)  # [tasks, length]
    accuracy, interval = mj.mean_and_interval(right[:, -_LAST:].mean(axis=1))
    return {
        "accuracy": accuracy,
        "interval": interval,
        "curve": right.mean(axis=0).tolist(),
        "tasks_hash": found.tasks_hash,
    }


def settings(config) -> dict:
    """What all numbers of maps have in common."""
    names = sorted(set(FLAGS) - set(_UNRECORDED))
    return {name: config[name].value for name in names}


def fit(config, num_maps: int, path: Path) -> dict:
    """Trains and judges one transformer, or reads what is known of it."""
    if path.exists():
        known = json.loads(path.read_text())
        if known["settings"] != settings(config):
            raise ValueError(
                f"{path} was made with other flags: choose another --workdir."
            )
        return known
    started = time.perf_counter()
    sampler = tasks(config, "train", num_maps)
    loss, name = mj.losses.cross_entropy, f"{num_maps} maps"
    meta, losses = train(config, reader(config), loss, sampler, name)
    found = {
        "settings": settings(config),
        "maps": num_maps,
        "losses": losses,
        "seconds": round(time.perf_counter() - started, 1),
        "seen": judge(config, meta, num_maps),
        "unseen": judge(config, meta, None),
    }
    write_whole(path, json.dumps(found, indent=1) + "\n")
    return found


def table(config, fits: list[dict]) -> str:
    lines = [
        f"Accuracy on {config.num_test_tasks} tasks of unseen images (95%), mean of the "
        f"last {min(_LAST, config.length)} of {config.length} places,",
        f"after {config.num_steps} steps of {config.num_tasks} tasks.",
        "   maps     under maps of training       under new maps   first place   seconds",
    ]
    for each in fits:
        seen, unseen = each["seen"], each["unseen"]
        lines.append(
            f"{each['maps']:7d} {100 * seen['accuracy']:15.1f} +- "
            f"{100 * seen['interval']:4.1f}% {100 * unseen['accuracy']:12.1f} +- "
            f"{100 * unseen['interval']:3.1f}% {100 * seen['curve'][0]:12.1f}% "
            f"{each['seconds']:9.0f}"
        )
    return "\n".join(lines)


def picture(fits: list[dict], path: Path) -> None:
    """The transition, and how predictions under new maps gain from examples."""
    figure, (transition, curves) = plt.subplots(1, 2, figsize=(10, 3.8))
    maps = [each["maps"] for each in fits]
    for name, label in (("seen", "maps of training"), ("unseen", "new maps")):
        transition.errorbar(
            maps,
            [each[name]["accuracy"] for each in fits],
            [each[name]["interval"] for each in fits],
            marker=".",
            capsize=3,
            label=label,
        )
    transition.axhline(0.1, color="0.55", linestyle="--", label="chance")
    transition.set(xscale="log", xlabel="maps in training", ylabel="accuracy")
    transition.set_title("unseen images, at the end of a task")
    shades = plt.cm.viridis(np.linspace(0, 0.9, len(fits)))
    for each, color in zip(fits, shades):
        label = f"{each['maps']} map" + "s" * (each["maps"] > 1)
        curves.plot(each["unseen"]["curve"], color=color, label=label)
    curves.set(xlabel="examples before", title="under new maps")
    for axis in (transition, curves):
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(config) -> int:
    """Does what the flags say, and returns the exit code."""
    workdir = Path(config.workdir)
    try:
        numbers = sorted({int(number) for number in config.maps})
        tasks(config, "test", None)
        workdir.mkdir(parents=True, exist_ok=True)
        fits = [fit(config, n, workdir / f"maps-{n}.json") for n in numbers]
    except (ValueError, OSError, mj.data.DataError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    text = table(config, fits)
    print(text)
    (workdir / "result.txt").write_text(text + "\n")
    picture(fits, workdir / "result.png")
    return 0


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    sys.exit(run(flags.FLAGS))


if __name__ == "__main__":
    flags.FLAGS.append_flag_values(FLAGS)
    app.run(main)
