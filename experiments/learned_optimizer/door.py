"""Learns an optimizer on many small trainings, and holds it against others, tuned.

python -m experiments.learned_optimizer --workdir=DIR

A task is a training, of a small network on images or texts, its classes in an order of its
own, or of a drawn function. How far a rule carries is told by --eval_only with
--eval_problem, --eval_data, --eval_hidden, --eval_layers, --eval_steps and the like.
"""

from functools import partial

from experiments import command, door
from experiments.defining import Flags
from experiments.optimizers import NAMES

_own = Flags(num_steps=1000, log_every_steps=50, eval_every_steps=100)
FLAGS = _own.values
_PROBLEMS = {
    "perceptron": "Hidden layers of --hidden units, or drawn from there to --max_hidden.",
    "convolution": "Four convolutions of --hidden channels.",
    "transformer": "Attention among words, --hidden wide.",
    "quadratic": "Least squares of --dim numbers.",
    "rosenbrock": "A curved valley in --dim dimensions.",
}
_DATA = {
    "mnist": "Ten digits; unseen images.",
    "glyphs": "Drawn characters, no download; unseen characters.",
    "omniglot": "Characters of alphabets; unseen characters.",
    "cifar_fs": "Colour images; unseen classes.",
    "clinc150": "Sentences, for --problem=transformer; unseen intents.",
}
_PROBLEM = _own.one_of("problem", "perceptron", [*_PROBLEMS], "What is trained.")
_DATA_SET = _own.one_of("data", "mnist", [*_DATA], "What networks are trained on.")
_own.text(
    "data_dir", None, "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default."
)
_own.integer("ways", 10, "Classes a task.", 2)
_own.integer("shots", 50, "Training examples a class.", 1)
_own.integer("queries", 20, "Test examples a class.", 1)
_HIDDEN = _own.integer("hidden", 32, "Units of each hidden layer.", 1)
_LAYERS = _own.integer("layers", 1, "Hidden layers.", 1)
_MAX_HIDDEN = _own.integer(
    "max_hidden", None, "Perceptrons differ, from --hidden units to so many.", 1
)
_MAX_LAYERS = _own.integer(
    "max_layers", None, "Perceptrons differ, from --layers layers to so many.", 1
)
_own.integer("dim", 10, "Numbers that a drawn function is of.", 2)
_own.integer("batch", 32, "Examples an inner step.", 1)
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
_JUDGED_BY = _own.one_of(
    "judged_by",
    "train",
    ["train", "query"],
    "Whose loss trains the rule, and tunes what it is held against: that of the examples "
    "trained on, or of others.",
)
_own.integer("num_tasks", 8, "Trainings side by side.", 1)
_OUTER_RATE = _own.number(
    "outer_rate",
    3e-3,
    "Rate of the outer Adam, which falls to zero along a cosine.",
)
_BASELINES = _own.names(
    "baselines",
    ["adam", "adam_cosine"],
    "What rules are held against, each at the best of 14 rates: optimizers of optax, or "
    "package.module:factory; with _cosine behind the name the rate falls to zero.",
)
_own.integer("num_validation_tasks", 20, "Trainings to choose by.", 2)
_own.integer("num_test_tasks", 50, "Unseen trainings to report.", 2)
_EVAL_STEPS = _own.integer(
    "eval_steps", None, "Inner steps in testing; --horizon if not set.", 1
)
_EVAL_PROBLEM = _own.one_of(
    "eval_problem",
    None,
    [*_PROBLEMS],
    "What is trained in testing; --problem likewise.",
)
_EVAL_DATA = _own.one_of("eval_data", None, [*_DATA], "The data in testing, likewise.")
_own.integer("eval_hidden", None, "Units in testing, likewise; all the same.", 1)
_own.integer("eval_layers", None, "Hidden layers in testing, likewise.", 1)
_own.integer("eval_shots", None, "Training examples a class in testing, likewise.", 1)
_own.integer("eval_queries", None, "Test examples a class in testing, likewise.", 1)
_PLACES = _own.integer(
    "places", 10, "At which losses are looked at; they divide it.", 1
)
_own.positive(_RATE, _STD, _OUTER_RATE)
_FREE = ("data_dir", "num_test_tasks", "places", "baselines", "eval_problem")
_FREE += ("eval_steps", "eval_hidden", "eval_layers", "eval_data")
_FREE += ("eval_shots", "eval_queries")
_DRAWN = ("quadratic", "rosenbrock")


@_own.refuse("--window must divide --horizon", _WINDOW, _HORIZON)
def _divides(values):
    return values["horizon"] % values["window"] == 0


@_own.refuse(
    "--places must divide --eval_steps, or --horizon", _PLACES, _EVAL_STEPS, _HORIZON
)
def _even(values):
    return (values["eval_steps"] or values["horizon"]) % values["places"] == 0


@_own.refuse(
    "--problem=transformer is for --data=clinc150, and that for nothing else",
    *(_PROBLEM, _DATA_SET, _EVAL_PROBLEM, _EVAL_DATA),
)
def _reads(values):
    pairs = [
        (values["problem"], values["data"]),
        (
            values["eval_problem"] or values["problem"],
            values["eval_data"] or values["data"],
        ),
    ]
    return all(
        problem in _DRAWN or (problem == "transformer") == (data == "clinc150")
        for problem, data in pairs
    )


@_own.refuse(
    "--judged_by=query is for what has test examples: not for drawn functions",
    *(_PROBLEM, _JUDGED_BY),
)
def _has_others(values):
    return values["judged_by"] == "train" or values["problem"] not in _DRAWN


@_own.refuse(
    "--max_hidden and --max_layers are for --problem=perceptron, and at least --hidden "
    "and --layers",
    *(_PROBLEM, _HIDDEN, _LAYERS, _MAX_HIDDEN, _MAX_LAYERS),
)
def _ranges(values):
    ranges = [(values[n], values[f"max_{n}"]) for n in ("hidden", "layers")]
    given = [(least, most) for least, most in ranges if most is not None]
    fits = values["problem"] == "perceptron" and all(low <= high for low, high in given)
    return not given or fits


@_own.refuse(f"--baselines must be among {', '.join(NAMES)}, or factories", _BASELINES)
def _known(values):
    plain = [name.removesuffix("_cosine") for name in values["baselines"]]
    return bool(plain) and all(name in NAMES or ":" in name for name in plain)


def main(started: float) -> None:
    """Runs what the command line asks for."""
    command.start(
        FLAGS,
        partial(run, started),
        about=__doc__,
        presets=command.PRESETS / "learned_optimizer",
    )


def run(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    from experiments import running

    # The rate falls over all of the steps.
    settings = door.settings(FLAGS, free=_FREE, fixed=("num_steps",))
    return running.run(experiment, door.options(FLAGS), settings, started=started)


def experiment():
    """The experiment that the flags name."""
    import optax

    from experiments.learned_optimizer import problems, study

    falling = optax.cosine_decay_schedule(FLAGS.outer_rate, max(FLAGS.num_steps, 1))
    learned_on = problems.Choice(
        *(FLAGS.problem, FLAGS.data, FLAGS.hidden, FLAGS.layers),
        *(FLAGS.max_hidden, FLAGS.max_layers, FLAGS.dim),
        *(FLAGS.ways, FLAGS.shots, FLAGS.queries, FLAGS.batch, FLAGS.data_dir),
    )
    changes = {
        name: FLAGS[f"eval_{name}"].value
        for name in ("problem", "data", "hidden", "layers", "shots", "queries")
    }
    tested = learned_on.changed(**changes)
    return study.experiment(
        rule(),
        problems.make(learned_on, "train"),
        problems.make(learned_on, "validation"),
        study.Windows(
            *(FLAGS.estimator, FLAGS.window, FLAGS.horizon, FLAGS.std, FLAGS.judged_by)
        ),
        study.Tested(
            problems.make(tested, "validation"),
            problems.make(tested, "test"),
            tuple(FLAGS.baselines),
            *(FLAGS.num_validation_tasks, FLAGS.num_test_tasks),
            *(FLAGS.eval_steps or FLAGS.horizon, FLAGS.places),
        ),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(falling)),
        num_tasks=FLAGS.num_tasks,
        rule_name=FLAGS.rule,
    )


def rule():
    """The rule that the flags name."""
    import metajax as mj

    if FLAGS.rule == "recurrent":
        return mj.rules.recurrent(FLAGS.width)
    if FLAGS.rule == "scheduled_adam":
        return mj.rules.scheduled_adam(FLAGS.horizon, rate=FLAGS.start_rate)
    sees_layer = FLAGS.rule == "per_layer"
    return mj.rules.per_parameter(
        FLAGS.width, rate=FLAGS.start_rate, sees_layer=sees_layer
    )
