"""Learns an optimizer on many small trainings, and holds it against Adam, tuned.

python -m experiments.learned_optimizer --workdir=DIR

A task is a training of a small network on images of a data set, its classes in an order of
its own. How far a rule carries is told by --eval_only with --eval_data, --eval_hidden,
--eval_layers or --eval_steps.
"""

from functools import partial

from experiments import command, door
from experiments.defining import Flags

_own = Flags(num_steps=1000, log_every_steps=50, eval_every_steps=100)
FLAGS = _own.values
_DATA = {
    "mnist": "Ten digits; unseen images.",
    "glyphs": "Drawn characters, no download; unseen characters.",
    "omniglot": "Characters of alphabets; unseen characters.",
    "cifar_fs": "Colour images; unseen classes.",
}
_own.one_of("data", "mnist", list(_DATA), "The images of the trainings.")
_own.text(
    "data_dir", None, "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default."
)
_own.integer("ways", 10, "Classes a task.", 2)
_own.integer("shots", 50, "Training images a class.", 1)
_own.integer("queries", 20, "Test images a class.", 1)
_own.integer("hidden", 32, "Units of each hidden layer.", 1)
_own.integer("layers", 1, "Hidden layers.", 1)
_own.integer("batch", 32, "Images an inner step.", 1)
_own.one_of(
    "rule",
    "per_parameter",
    ["per_parameter", "per_layer", "recurrent", "scheduled_adam"],
    "What is learned.",
)
_own.integer("width", 16, "Hidden units of the rule.", 1)
_RATE = _own.number("start_rate", 0.01, "Rate of Adam, from which rules start.")
_own.one_of(
    "estimator",
    "reused",
    ["persistent", "reused", "fresh", "truncated"],
    "Of the meta-gradient: noise that adds up (PES), that is kept (NRES), that is "
    "forgotten (ES), or truncated backpropagation.",
)
_WINDOW = _own.integer("window", 20, "Inner steps an outer step.", 1)
_HORIZON = _own.integer("horizon", 200, "Inner steps of a training.", 1)
_STD = _own.number("std", 0.01, "Standard deviation of the noise.")
_own.one_of(
    "judged_by",
    "train",
    ["train", "query"],
    "Whose loss trains the rule: its own, or that of other images.",
)
_own.integer("num_tasks", 8, "Trainings side by side.", 1)
_OUTER_RATE = _own.number("outer_rate", 3e-3, "Rate of the outer Adam.")
_own.integer("num_validation_tasks", 20, "Trainings to choose by.", 2)
_own.integer("num_test_tasks", 50, "Unseen trainings to report.", 2)
_EVAL_STEPS = _own.integer(
    "eval_steps", None, "Inner steps in testing; --horizon if not set.", 1
)
_own.integer("eval_hidden", None, "Units in testing; --hidden if not set.", 1)
_own.integer("eval_layers", None, "Hidden layers in testing, likewise.", 1)
_own.one_of("eval_data", None, list(_DATA), "The images in testing, likewise.")
_PLACES = _own.integer(
    "places", 10, "At which losses are looked at; they divide it.", 1
)
_own.positive(_RATE, _STD, _OUTER_RATE)
_FREE = ("data_dir", "num_test_tasks", "places")
_FREE += ("eval_steps", "eval_hidden", "eval_layers", "eval_data")


@_own.refuse("--window must divide --horizon", _WINDOW, _HORIZON)
def _divides(values):
    return values["horizon"] % values["window"] == 0


@_own.refuse(
    "--places must divide --eval_steps, or --horizon", _PLACES, _EVAL_STEPS, _HORIZON
)
def _even(values):
    return (values["eval_steps"] or values["horizon"]) % values["places"] == 0


def main(started: float) -> None:
    """Runs what the command line asks for."""
    command.start(FLAGS, partial(run, started), about=__doc__)


def run(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    from experiments import running

    settings = door.settings(FLAGS, free=_FREE)
    return running.run(experiment, door.options(FLAGS), settings, started=started)


def experiment():
    """The experiment that the flags name."""
    import optax

    from experiments.learned_optimizer import study, trainings
    import metajax as mj

    def tasks(data: str, split: str):
        where = {} if data == "glyphs" else {"data_dir": FLAGS.data_dir}
        classes = getattr(mj.data, data)(split, **where)
        return mj.data.FewShot(classes, FLAGS.ways, FLAGS.shots, FLAGS.queries)

    train, validation = (tasks(FLAGS.data, split) for split in ("train", "validation"))
    other = FLAGS.eval_data or FLAGS.data
    networks = trainings.Networks(FLAGS.hidden, FLAGS.layers, FLAGS.ways, FLAGS.batch)
    hidden, layers = FLAGS.eval_hidden, FLAGS.eval_layers
    return study.experiment(
        rule(),
        networks,
        train,
        validation,
        study.Windows(
            *(FLAGS.estimator, FLAGS.window, FLAGS.horizon, FLAGS.std, FLAGS.judged_by)
        ),
        study.Tested(
            networks._replace(
                hidden=hidden or FLAGS.hidden, layers=layers or FLAGS.layers
            ),
            validation if other == FLAGS.data else tasks(other, "validation"),
            tasks(other, "test"),
            *(FLAGS.num_validation_tasks, FLAGS.num_test_tasks),
            *(FLAGS.eval_steps or FLAGS.horizon, FLAGS.places),
        ),
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(FLAGS.outer_rate)
        ),
        num_tasks=FLAGS.num_tasks,
        rule_name=FLAGS.rule,
    )


def rule():
    """The rule that the flags name."""
    import metajax as mj

    if FLAGS.rule == "recurrent":
        return mj.rules.recurrent(mj.models.gru(FLAGS.width), FLAGS.width)
    if FLAGS.rule == "scheduled_adam":
        return mj.rules.scheduled_adam(FLAGS.horizon, rate=FLAGS.start_rate)
    sees_layer = FLAGS.rule == "per_layer"
    return mj.rules.per_parameter(
        FLAGS.width, rate=FLAGS.start_rate, sees_layer=sees_layer
    )
