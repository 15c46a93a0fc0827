"""Learns how far to trust each label: bilevel optimisation, by the adjoints alone.

Softmax regression on MNIST, some of whose labels are wrong, is trained again in every
outer step, which moves the weight of each label and a regulariser by what a few clean
images say. What differs from run to run is how that training is differentiated. Writes a
table and a picture beside the runs:

python -m experiments.noisy_labels --workdir=DIR
"""

from functools import partial
import math

from absl import flags

from experiments import command, door

FLAGS = flags.FlagValues()
door.define_run_flags(FLAGS)
FLAGS.set_default("num_steps", 30)
FLAGS.set_default("log_every_steps", 1)
FLAGS.set_default("eval_every_steps", 5)
_integer = partial(flags.DEFINE_integer, lower_bound=1, flag_values=FLAGS)
_float = partial(flags.DEFINE_float, flag_values=FLAGS)
flags.DEFINE_string(
    "data_dir",
    None,
    "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default.",
    flag_values=FLAGS,
)
_integer("train_images", 200, "Training images a digit.", upper_bound=4000)
_integer("validation_images", 10, "Validation images a digit.", upper_bound=400)
_float("noise", 0.5, "Share of the even digits' labels that are wrong.")
_integer("num_inner_steps", 300, "Steps of training, by gradient descent.")
_float("inner_rate", 1.0, "Rate of the inner descent, whose momentum is 0.9.")
_float("l2", 0.01, "The regulariser to start from.")
_float("outer_rate", 0.1, "Rate of Adam on the hyperparameters.")
_integer("last", 10, "Steps that the truncated derivative goes back.")
_integer("cg_iterations", 50, "The most that the implicit derivative takes.")
door.define_integers(
    FLAGS,
    "compared_steps",
    ["10", "30", "100", "300"],
    "Inner steps after which derivatives are compared, at the initial hyperparameters.",
)


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
    "num_seeds",
    "must be 1: all would start from the same hyperparameters",
    flag_values=FLAGS,
)
def _one_seed(number):
    return number == 1


def main(started: float) -> None:
    """Runs what the command line asks for."""
    command.start(FLAGS, partial(run, started), about=__doc__)


def run(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    from experiments.noisy_labels import study
    from experiments.noisy_labels.study import Study

    found = {name: FLAGS[name].value for name in Study._fields}
    compared = tuple(sorted({int(step) for step in FLAGS.compared_steps}))
    described = Study(**found | {"compared_steps": compared})
    return command.run_study(
        FLAGS,
        "adjoint",
        {name: partial(study.experiment, described, name) for name in study.NAMES},
        read=partial(study.read, described),
        table=partial(study.table, described),
        picture=partial(study.picture, described),
        free=("data_dir", "compared_steps"),
        started=started,
    )
