"""From remembering tasks to learning them: one transformer, trained on ever more tasks.

A task is a random map of MNIST's pixels with a permutation of its digits. A causal
transformer reads examples of a task one after another, and says the label of each before
it sees it. Trained on few maps it can remember them; trained on many it has to learn from
the examples before, and then does so under maps that it has never met. For each number of
maps this trains one transformer, and judges it on unseen images, under the maps of its
training and under new ones. Writes a table and a picture beside the runs:

python -m experiments.transition --workdir=DIR

After Kirsch, Harrison, Sohl-Dickstein, Metz 2022 (arXiv 2212.04458), section 4, at a
fraction of its size.
"""

import time

_STARTED = time.time()

from functools import partial
import json
from pathlib import Path

from absl import flags

from experiments import command, door, sequences
from experiments.sequences import Reading

FLAGS = flags.FlagValues()
sequences.define_flags(FLAGS, length=50, num_tasks=16)
FLAGS.set_default("num_steps", 10_000)
FLAGS.set_default("log_every_steps", 500)
door.define_integers(
    FLAGS,
    "maps",
    ["1", "16", "256", "4096", "65536"],
    "Numbers of maps in training, each for a transformer of its own.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default.",
    flag_values=FLAGS,
)
_SIZE = flags.DEFINE_integer(
    "size", 7, "Height and width that images are averaged to.", 1, flag_values=FLAGS
)

_LAST = 10  # Places at the end of a task, whose mean is the accuracy reported.


@flags.validator("size", "must divide 28", flag_values=FLAGS)
def _divides(size):
    return 28 % size == 0


def experiment(reading: Reading, num_maps: int, size: int, data_dir: str | None):
    """Trains a transformer on so many maps.

    Args:
      reading: the transformer, and how it is trained.
      num_maps: how many maps there are in training.
      size: height and width that images are averaged to.
      data_dir: TFDS's data directory.
    """
    import jax.numpy as jnp

    from experiments import running
    import metajax as mj

    reader = sequences.transformer(10, reading)
    predict = mj.predict_sequence(sequences.as_they_are(), reader)
    places = tuple(range(reading.length))

    def objective(key, meta, task):
        del key
        sequence = sequences.in_a_row(task)
        right = jnp.argmax(predict(meta, sequence), axis=1) == sequence.targets
        return jnp.mean(right), {"accuracy": right.astype(jnp.float32)}

    def tasks(split: str, maps: int | None):
        digits, shots = mj.data.mnist(split, data_dir=data_dir), reading.length - 1
        return mj.data.Projections(digits, shots, 1, num_maps=maps, size=size)

    def measure(split: str, seed: int, num_tasks: int):
        """Under the maps of training, and under new ones."""
        under = partial(
            running.on_tasks,
            objectives={places: objective},
            axis="examples before",
            seed=seed,
            num_tasks=num_tasks,
            tasks_per_chunk=50,
        )
        maps = {"seen": num_maps, "unseen": None}
        return running.side_by_side(
            {k: under(tasks(split, n)) for k, n in maps.items()}
        )

    return sequences.experiment(
        reader,
        mj.losses.cross_entropy,
        tasks("train", num_maps),
        rate=reading.rate,
        num_tasks=reading.num_tasks,
        validation=measure(
            "validation", running.VALIDATION, reading.num_validation_tasks
        ),
        test=measure("test", running.TEST, reading.num_test_tasks),
        # Chosen under the maps of training: what it does under others is the question.
        metric=running.Metric("seen_accuracy", True, True),
        shown=[0, reading.length // 2, reading.length - 1],
    )


def read(directory: Path) -> dict:
    """What a finished run has found, as its line in the table."""
    import numpy as np

    import metajax as mj

    result = json.loads((directory / "result.json").read_text())
    places = [row["examples_before"] for row in result["rows"]]
    found = {"seconds": result["train_seconds"], "steps": result["steps"]}
    with np.load(directory / "result.npz") as values:
        for name in ("seen", "unseen"):
            right = np.stack([values[f"{name}_accuracy_{p}"] for p in places], axis=1)
            mean, interval = mj.mean_and_interval(right[:, -_LAST:].mean(axis=1))
            curve = right.mean(axis=0).tolist()
            found[name] = {"accuracy": mean, "interval": interval, "curve": curve}
    return found


def table(fits: dict[int, dict], reading: Reading) -> str:
    """One line a number of maps."""
    steps = next(iter(fits.values()))["steps"]
    lines = [
        f"Accuracy on {reading.num_test_tasks} tasks of unseen images (95%), mean of the "
        f"last {min(_LAST, reading.length)} of {reading.length} places,",
        f"after {steps} steps of {reading.num_tasks} tasks.",
        "   maps     under maps of training       under new maps   first place   seconds",
    ]
    for maps, each in fits.items():
        seen, unseen = each["seen"], each["unseen"]
        lines.append(
            f"{maps:7d} {100 * seen['accuracy']:15.1f} +- "
            f"{100 * seen['interval']:4.1f}% {100 * unseen['accuracy']:12.1f} +- "
            f"{100 * unseen['interval']:3.1f}% {100 * seen['curve'][0]:12.1f}% "
            f"{each['seconds']:9.0f}"
        )
    return "\n".join(lines)


def picture(fits: dict[int, dict], path: Path) -> None:
    """The transition, and how predictions under new maps gain from examples."""
    import numpy as np

    from experiments.running.pictures import plt, save

    figure, (transition, curves) = plt.subplots(1, 2, figsize=(10, 3.8))
    for name, label in (("seen", "maps of training"), ("unseen", "new maps")):
        transition.errorbar(
            list(fits),
            [each[name]["accuracy"] for each in fits.values()],
            [each[name]["interval"] for each in fits.values()],
            marker=".",
            capsize=3,
            label=label,
        )
    transition.axhline(0.1, color="0.55", linestyle="--", label="chance")
    transition.set(xscale="log", xlabel="maps in training", ylabel="accuracy")
    transition.set_title("unseen images, at the end of a task")
    shades = plt.cm.viridis(np.linspace(0, 0.9, len(fits)))
    for (maps, each), color in zip(fits.items(), shades):
        label = f"{maps} map" + "s" * (maps > 1)
        curves.plot(each["unseen"]["curve"], color=color, label=label)
    curves.set(xlabel="examples before", title="under new maps")
    for axis in (transition, curves):
        axis.legend(fontsize=8)
    save(figure, path)


def run(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    reading, size, data_dir = sequences.reading(FLAGS), _SIZE.value, _DATA_DIR.value
    return command.run_study(
        FLAGS,
        "maps",
        {
            number: partial(experiment, reading, number, size, data_dir)
            for number in sorted({int(number) for number in FLAGS.maps})
        },
        read=read,
        table=partial(table, reading=reading),
        picture=picture,
        free=("maps", "data_dir", "num_test_tasks"),
        started=started,
    )


if __name__ == "__main__":
    command.start(FLAGS, partial(run, _STARTED), about=__doc__)
