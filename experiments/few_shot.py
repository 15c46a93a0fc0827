"""Meta-trains a few-shot learner and reports it on unseen tasks with an interval.

python -m experiments.few_shot --flagfile=experiments/presets/NAME.flags --workdir=DIR

Later flags override earlier ones. A run that was cut off goes on when started again.
"""

import time

_STARTED = time.time()

import math
from pathlib import Path
import sys

from absl import app, flags

from experiments import choices

FLAGS = flags.FLAGS

flags.DEFINE_string("workdir", None, "Where the run writes; made if absent.")
flags.DEFINE_enum("platform", "auto", ["auto", "cpu", "gpu", "tpu"], "Where to run.")
flags.DEFINE_bool(
    "distributed",
    False,
    "Share the tasks with the other processes of this Slurm or Open MPI job, Kubernetes "
    "job or TPU pod, each of which is started with the same flags.",
)
flags.DEFINE_string(
    "coordinator",
    None,
    "Likewise anywhere else: host:port of the first of --num_processes.",
)
flags.DEFINE_integer("num_processes", None, "Processes that --coordinator awaits.", 1)
flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", 0)
flags.DEFINE_bool(
    "eval_only", False, "Evaluate the run saved in --workdir, on --num_test_tasks."
)
flags.DEFINE_bool(
    "dry_run",
    False,
    "Only compile the training step, and say what it takes and what fits the device.",
)
flags.DEFINE_string(
    "compilation_cache",
    None,
    "Where compiled programs are kept for the next start, or none; else JAX's own "
    "setting or the user's cache directory.",
)
flags.DEFINE_integer("seed", 0, "Fixes the initial parameters and training tasks.")
flags.DEFINE_integer(
    "num_seeds",
    1,
    "Seeds that one program trains, from --seed on; the directory of each is seed_N in "
    "--workdir.",
    1,
)

flags.DEFINE_enum(
    "data",
    "sinusoid",
    [
        "sinusoid",
        "glyphs",
        "omniglot",
        "mnist",
        "cifar_fs",
        "fc100",
        "clinc150",
        "folder",
        "arrays",
        "texts",
    ],
    "The task distribution; folder, arrays and texts are your own data.",
)
flags.DEFINE_string(
    "data_dir", None, "TFDS data directory; else $TFDS_DATA_DIR or TFDS's default."
)
flags.DEFINE_string(
    "data_path", None, "Your own data: a folder, an npz file, or a CSV file."
)
flags.DEFINE_list(
    "class_split",
    ["0.6", "0.2", "0.2"],
    "Training, validation and test classes of your own data: fractions, or files "
    "with one class name a line.",
)
flags.DEFINE_integer("image_size", 84, "Size that your own images are resized to.", 1)
flags.DEFINE_enum(
    "omniglot_classes",
    "finn",
    ["finn", "lake", "vinyals"],
    "Held-out characters of all alphabets, or held-out alphabets (two splits).",
)
flags.DEFINE_enum(
    "omniglot_resize", "binary", ["binary", "grey"], "How 105 becomes 28 pixels."
)
flags.DEFINE_bool(
    "rotated_classes",
    False,
    "Make four classes of each character of Omniglot, turned by multiples of 90 degrees.",
)
flags.DEFINE_enum(
    "clinc_fold",
    "01",
    ["01", "02", "03", "04", "05", "domain"],
    "Which split of CLINC150's intents: one of five folds, or by domain.",
)
flags.DEFINE_enum(
    "encoding",
    "words",
    ["words", "ngrams"],
    "What texts become: their words in order, or all n-grams they contain, for bags.",
)
flags.DEFINE_integer("vocabulary", 8192, "Ids that tokens of text are hashed to.", 2)
flags.DEFINE_integer(
    "text_length",
    32,
    "Tokens kept of a text; 256 are enough for the n-grams of CLINC150.",
    1,
)
flags.DEFINE_bool(
    "quarter_turns", False, "Turn each class by a multiple of 90 degrees."
)
flags.DEFINE_bool(
    "augment", False, "Mirror and move each image of a task at random, in training."
)
flags.DEFINE_bool(
    "within_groups",
    False,
    "Draw all classes of a task from one group: an alphabet of Omniglot, a domain of "
    "CLINC150, or what comes before a slash in names of your own.",
)
flags.DEFINE_list(
    "rotations",
    [],
    "Turn each task by an angle: three ranges low:high in degrees, for training, "
    "validation and test.",
)
flags.DEFINE_enum(
    "permute_labels",
    "all",
    ["all", "eval", "none"],
    "Which tasks give the classes new labels; else all classes keep their own.",
)
flags.DEFINE_integer("ways", 5, "Classes a task.", 2)
flags.DEFINE_integer("shots", 1, "Support examples a class, or points.", 1)
flags.DEFINE_integer("queries", 1, "Query examples a class, or points.", 1)
flags.DEFINE_integer("eval_ways", None, "Ways in evaluation; --ways if not set.", 2)
flags.DEFINE_integer("eval_shots", None, "Shots in evaluation; --shots if not set.", 1)
flags.DEFINE_integer("eval_queries", None, "Likewise for --queries.", 1)

flags.DEFINE_enum(
    "model",
    "mlp",
    ["mlp", "conv4", "bag", "text_cnn", "text_transformer"],
    "The model; the last three are for text.",
)
flags.DEFINE_list("hidden", ["40", "40"], "Widths of the hidden layers of mlp.")
flags.DEFINE_float(
    "init_std",
    None,
    "Standard deviation of the initial weights of mlp, or of conv4's head; LeCun's if "
    "not set.",
)
flags.DEFINE_bool("warp", False, "Give the model layers for warpgrad.")
flags.DEFINE_integer(
    "width", 64, "Features of each convolution of conv4, or of a token of text.", 1
)
flags.DEFINE_integer(
    "projection", 0, "Width of a learned projection beside the weights of bag.", 0
)
flags.DEFINE_enum(
    "downsample", "stride", ["stride", "pool"], "How conv4 halves its maps."
)
flags.DEFINE_enum(
    "normalization",
    "transductive",
    ["transductive", "support", "layer", "group", "none"],
    "Whose statistics conv4 normalises by: the batch's, also in testing; the support "
    "batch's; each example's.",
)

flags.DEFINE_enum("learner", "maml", list(choices.LEARNERS), "The meta-learner.")
flags.DEFINE_string(
    "inner_optimizer",
    "sgd",
    "Any optimizer that optax has; meta_sgd, maml_plus_plus and warpgrad have their own.",
)
flags.DEFINE_float(
    "inner_rate",
    0.01,
    "Rate of the inner optimizer, at which maml_plus_plus starts to learn its own.",
)
flags.DEFINE_list(
    "adapted",
    [],
    "Parameters that the inner loop changes, as shell patterns such as Conv_*,head/*; "
    "all by default.",
)
flags.DEFINE_list(
    "frozen",
    [],
    "Meta-parameters that are not learned, as shell patterns such as Conv_*.",
)
flags.DEFINE_string(
    "initial_params",
    None,
    "An npz file of meta-parameters to start from, such as another run's best.npz, or of "
    "some of them.",
)
flags.DEFINE_list(
    "inner_options",
    [],
    "Further arguments of the inner optimizer, such as eps_root=1e-8.",
)
flags.DEFINE_integer("inner_steps", 1, "Inner steps in training.", 0)
flags.DEFINE_enum(
    "adjoint",
    None,
    ["unroll", "mixed_mode", "implicit"],
    "How the inner loop is differentiated: step by step, with the same result to "
    "rounding, or at the point of rest that it is taken to have reached. implicit by "
    "default for imaml, unroll for all others.",
)
flags.DEFINE_integer(
    "last",
    None,
    "How many of the last inner steps are differentiated in full; 0 is first order, and "
    "all is the default.",
    0,
)
flags.DEFINE_enum(
    "remat",
    "none",
    ["none", "step", "nested"],
    "What of the inner loop is computed again rather than kept, to need less memory.",
)
flags.DEFINE_integer(
    "inner_batch", None, "Support examples a step of reptile; all if not set.", 1
)
flags.DEFINE_bool(
    "keep_inner_state",
    False,
    "Let reptile train on each task with the inner optimizer's state that former tasks "
    "have led to, as its authors' code does, rather than a fresh one.",
)
flags.DEFINE_list(
    "initial_rates",
    ["0.005", "0.1"],
    "The least and the greatest of the inner rates that meta_sgd starts from.",
)
flags.DEFINE_enum(
    "rate_per",
    "parameter",
    ["parameter", "leaf", "model"],
    "What meta_sgd learns a rate for: each number, each weight matrix or bias, or all.",
)
flags.DEFINE_list(
    "per_step",
    [],
    "What each inner step has of its own: rates (meta_sgd, maml_plus_plus), "
    "normalization (maml_plus_plus with conv4).",
)
flags.DEFINE_integer("num_context", 5, "Context parameters of cavia.", 1)
flags.DEFINE_float(
    "regularization",
    2.0,
    "Weight of imaml's proximal term, or of the squared weights of metaoptnet's head.",
)
flags.DEFINE_integer(
    "context_steps",
    0,
    "How often a query of matching_net reads the support set, for full context "
    "embeddings.",
    0,
)
flags.DEFINE_list(
    "relation", ["64"], "Widths of the hidden layers of relation_net's comparison."
)
flags.DEFINE_enum(
    "reader",
    "transformer",
    ["transformer", "snail"],
    "What reads the support examples of in_context: a transformer, to which they are a "
    "set, or SNAIL, in their order.",
)
flags.DEFINE_integer(
    "reader_width", 64, "Width of a token in --reader, or filters of snail.", 1
)
flags.DEFINE_integer("reader_layers", 2, "Blocks of --reader=transformer.", 1)
flags.DEFINE_integer("reader_heads", 4, "Attention heads of --reader=transformer.", 1)
flags.DEFINE_integer(
    "code", 32, "Numbers by which hypernetwork generates parameters.", 1
)
flags.DEFINE_list(
    "generated",
    ["*"],
    "Parameters beside the head that hypernetwork generates, as shell patterns such as "
    "Normalize_*; the others are meta-learned alone.",
)
flags.DEFINE_enum(
    "convex_head",
    "logistic",
    ["logistic", "svm"],
    "The classifier of metaoptnet; svm needs pip install 'metajax[svm]'.",
)
flags.DEFINE_enum(
    "new_head",
    "linear",
    ["linear", "cosine"],
    "What baseline trains on the support examples, in evaluation alone.",
)
flags.DEFINE_enum(
    "solver",
    "cg",
    ["cg", "gmres", "neumann", "dense"],
    "How --adjoint=implicit solves its linear system.",
)
flags.DEFINE_integer(
    "solver_iterations", 5, "Products with the Hessian in --solver.", 0
)
flags.DEFINE_float("damping", 0.0, "What --adjoint=implicit adds to the Hessian.")
flags.DEFINE_list(
    "eval_inner_steps",
    None,
    "Inner steps to report; 0,1,5,10 by default, and 0 for learners that take none.",
)
flags.DEFINE_list(
    "select_inner_steps",
    None,
    "Inner steps on the validation tasks by which the best parameters are chosen, the "
    "mean if several; 10 by default, and 0 for learners that take none.",
)
flags.DEFINE_string("outer_optimizer", "adam", "Any optimizer that optax has.")
flags.DEFINE_float("outer_rate", 1e-3, "Rate of the outer optimizer.")
flags.DEFINE_list("outer_options", [], "Further arguments of the outer optimizer.")
flags.DEFINE_float(
    "outer_clip",
    None,
    "Greatest norm of a meta-gradient: longer ones are shortened to it before the outer "
    "optimizer; none are by default.",
)
flags.DEFINE_enum(
    "outer_schedule",
    "constant",
    ["constant", "linear", "cosine"],
    "How the outer rate falls to --outer_final_rate over --num_steps.",
)
flags.DEFINE_float("outer_final_rate", 0.0, "Outer rate at the end of the schedule.")
flags.DEFINE_enum(
    "estimator",
    None,
    ["backprop", "displacement", "evolution"],
    "How the meta-gradient is estimated; displacement by default for reptile, backprop "
    "for all others.",
)
flags.DEFINE_integer(
    "evolution_pairs", 32, "Antithetic pairs of --estimator=evolution.", 1
)
flags.DEFINE_float(
    "evolution_std", 0.01, "Standard deviation of the noise of --estimator=evolution."
)
flags.DEFINE_integer(
    "multi_step_loss",
    0,
    "Outer steps in which maml_plus_plus counts the loss after every inner step, less "
    "and less; 0 for none.",
    0,
)
flags.DEFINE_integer(
    "first_order_until", 0, "Outer steps at first order, before those in full.", 0
)

flags.DEFINE_integer("num_tasks", 32, "Tasks an outer step.", 1)
flags.DEFINE_integer(
    "num_devices",
    None,
    "Devices that share the tasks, a CPU core being one; as many as are of use, if not "
    "set.",
    1,
)
flags.DEFINE_bool(
    "divide_state",
    False,
    "Divide the parameters and the optimizer's state among the devices, which hold them "
    "whole at the start and in a step alone.",
)
flags.DEFINE_integer(
    "tasks_per_chunk",
    None,
    "Tasks that a device holds at a time; must divide --num_tasks. By default all, or one "
    "where tasks are images and the device is a CPU.",
    1,
)
flags.DEFINE_integer("num_steps", 1000, "Outer steps.", 0)
flags.DEFINE_integer("log_every_steps", 100, "Outer steps between lines.", 1)
flags.DEFINE_integer(
    "eval_every_steps", 1000, "Outer steps between validations and checkpoints.", 1
)
flags.DEFINE_integer("keep_checkpoints", 2, "The newest checkpoints are kept.", 1)
flags.DEFINE_integer(
    "max_skipped",
    10,
    "Outer steps in a row that are skipped, their loss or gradient not being finite, "
    "before training stops.",
    0,
)
flags.DEFINE_integer("num_validation_tasks", 600, "Tasks to choose by.", 2)
flags.DEFINE_integer("num_test_tasks", 600, "Unseen tasks to report.", 2)
flags.DEFINE_integer(
    "eval_tasks_per_chunk", 100, "Tasks held at a time in evaluation.", 1
)


@flags.multi_flags_validator(
    ["coordinator", "num_processes", "process_id"],
    "--coordinator, --num_processes and --process_id are set together, and processes are "
    "numbered from 0",
)
def _all_of_them(values):
    number, index = values["num_processes"], values["process_id"]
    are_set = [value is not None for value in values.values()]
    return not any(are_set) or (all(are_set) and index < number)


@flags.multi_flags_validator(
    ["workdir", "dry_run"], "--workdir must be set, but for a --dry_run"
)
def _somewhere(values):
    return values["workdir"] or values["dry_run"]


def _traits(f) -> choices.Traits:
    return choices.LEARNERS[f["learner"]]


@flags.multi_flags_validator(
    ["learner", "warp", "inner_steps"],
    "--learner=warpgrad needs --warp and at least one of --inner_steps",
)
def _warped(values):
    if values["learner"] != "warpgrad":
        return True
    return values["warp"] and values["inner_steps"] > 0


@flags.multi_flags_validator(
    ["learner", "estimator"],
    "--estimator=displacement needs inner steps that move what is meta-learned, which "
    "--learner=warpgrad and learners without inner steps have not",
)
def _displaced(values):
    return _traits(values).moves or values["estimator"] != "displacement"


@flags.multi_flags_validator(
    [
        *("keep_inner_state", "estimator", "outer_optimizer", "outer_options"),
        *("outer_rate", "outer_final_rate"),
    ],
    "--keep_inner_state needs --estimator=displacement and --outer_optimizer=sgd, without "
    "--outer_options and with an --outer_rate, and --outer_final_rate, of at most 1: "
    "others could turn a mean square of the inner optimizer negative",
)
def _between_states(values):
    return not values["keep_inner_state"] or (
        values["estimator"] in (None, "displacement")
        and values["outer_optimizer"] == "sgd"
        and not values["outer_options"]
        and max(values["outer_rate"], values["outer_final_rate"]) <= 1
    )


@flags.multi_flags_validator(
    ["last", "inner_steps"], "--last must be at most --inner_steps"
)
def _no_more_than_there_are(values):
    return values["last"] is None or values["last"] <= values["inner_steps"]


def _unrolls(f) -> bool:
    return choices.unrolls(f["learner"], f["adjoint"], f["estimator"])


def _estimates_by(f) -> str:
    return choices.estimator(f["learner"], f["estimator"])


def _is_implicit(f) -> bool:
    return choices.adjoint(f["learner"], f["adjoint"]) == "implicit"


# Flags that only some runs read, and for which runs they are.
_FOR = {
    (
        "inner_optimizer",
        "inner_rate",
        "inner_options",
        "inner_steps",
        "eval_inner_steps",
        "select_inner_steps",
    ): (
        "learners that take inner steps",
        lambda f: _traits(f).inner_steps,
    ),
    ("adjoint",): (
        "learners whose derivative is not their own, with --estimator=backprop",
        # Runs of the time when unroll was the default have it in their flags.
        lambda f: (
            f["adjoint"] == "unroll"
            or (_traits(f).adjoint and _estimates_by(f) == "backprop")
        ),
    ),
    ("last", "remat"): (
        "inner loops that are differentiated step by step, by --learner=maml and the "
        "like, with --estimator=backprop, not --adjoint=implicit",
        _unrolls,
    ),
    ("first_order_until",): (
        "inner loops that are differentiated step by step, with --last not set",
        lambda f: _unrolls(f) and f["last"] is None,
    ),
    ("solver", "solver_iterations", "damping"): ("--adjoint=implicit", _is_implicit),
    ("evolution_pairs", "evolution_std"): (
        "--estimator=evolution",
        lambda f: _estimates_by(f) == "evolution",
    ),
    ("multi_step_loss",): (
        "inner steps, not --estimator=displacement",
        lambda f: f["inner_steps"] > 0 and _estimates_by(f) != "displacement",
    ),
}
_READ_BY = sorted({flag for t in choices.LEARNERS.values() for flag in t.reads})


@flags.multi_flags_validator(
    list(
        dict.fromkeys(
            [
                *("learner", "inner_steps", "estimator", "ways", "eval_ways"),
                *(name for names in _FOR for name in names),
                *_READ_BY,
            ]
        )
    )
)
def _read(values):
    for names, (what, reads) in _FOR.items():
        for name in names:
            if values[name] != FLAGS[name].default and not reads(values):
                # Not a ValidationError, to which absl would add all these flags.
                raise flags.IllegalFlagValueError(f"--{name} is for {what}")
    for name in _READ_BY:
        learners = choices.learners_reading(name)
        if values[name] != FLAGS[name].default and values["learner"] not in learners:
            raise flags.IllegalFlagValueError(
                f"--{name} is for --learner={', '.join(learners)}"
            )
    if values["eval_ways"] not in (None, values["ways"]):
        if not _traits(values).any_ways:
            free = [name for name, t in choices.LEARNERS.items() if t.any_ways]
            raise flags.IllegalFlagValueError(
                f"--eval_ways other than --ways is for --learner={', '.join(free)}"
            )
    return True


@flags.multi_flags_validator(
    ["learner", "adjoint"],
    "--adjoint=implicit is for --learner="
    f"{', '.join(n for n, t in choices.LEARNERS.items() if t.rests)}: a point of rest "
    "does not depend on the initialisation or the rates that the others learn",
)
def _implicit(values):
    return values["adjoint"] != "implicit" or _traits(values).rests


@flags.multi_flags_validator(
    ["data", "learner"],
    "--data=sinusoid is no classification, which this --learner needs",
)
def _classifies(values):
    return values["data"] != "sinusoid" or not _traits(values).any_ways


@flags.multi_flags_validator(
    ["learner", "ways", "permute_labels"],
    "--learner=baseline trains on all training classes at once: set --ways to their "
    "number, and --permute_labels=eval",
)
def _all_classes(values):
    return values["learner"] != "baseline" or values["permute_labels"] == "eval"


@flags.multi_flags_validator(
    ["learner", "per_step"],
    "--per_step lists rates, and for --learner=maml_plus_plus normalization",
)
def _stepwise(values):
    known = ["rates"]
    if values["learner"] == "maml_plus_plus":
        known.append("normalization")
    return set(values["per_step"]) <= set(known)


@flags.multi_flags_validator(
    ["inner_rate", "outer_rate", "regularization", "evolution_std"],
    "rates, --regularization and --evolution_std must be positive and finite",
)
def _positive(rates):
    return all(math.isfinite(rate) and rate > 0 for rate in rates.values())


@flags.multi_flags_validator(
    ["outer_final_rate", "damping"],
    "--outer_final_rate and --damping must be at least 0 and finite",
)
def _not_negative(numbers):
    return all(math.isfinite(n) and n >= 0 for n in numbers.values())


@flags.validator("initial_rates", "must be two positive rates, the least first")
def _range_of_rates(rates):
    try:
        low, high = map(float, rates)
    except ValueError:
        return False
    return 0 < low <= high < math.inf


@flags.multi_flags_validator(
    ["solver", "solver_iterations"],
    "--solver_iterations must be at least 1, but for --solver=neumann or dense",
)
def _iterations(values):
    return values["solver"] in ("neumann", "dense") or values["solver_iterations"] > 0


@flags.validator("eval_inner_steps", "must be ascending integers, such as 0,1,5,10")
@flags.validator("select_inner_steps", "must be ascending integers, such as 1,5,10")
def _ascending(steps):
    if steps is None:
        return True
    if not steps or not all(step.isdecimal() for step in steps):
        return False
    return steps == sorted(set(steps), key=int)


@flags.validator("init_std", "must be positive and finite")
@flags.validator("outer_clip", "must be positive and finite")
def _positive_if_set(number):
    return number is None or (math.isfinite(number) and number > 0)


@flags.validator("hidden", "must be positive integers, such as 40,40")
@flags.validator("relation", "must be positive integers, such as 64")
def _widths(widths):
    return all(width.isdecimal() and int(width) for width in widths)


@flags.validator("class_split", "must have three parts: training, validation, test")
def _three(parts):
    return len(parts) == 3


@flags.validator("rotations", "must be three ranges, such as 0:180,180:240,240:360")
def _ranges(ranges):
    try:
        pairs = [tuple(map(float, r.split(":"))) for r in ranges]
    except ValueError:
        return False
    return len(pairs) in (0, 3) and all(len(p) == 2 and p[0] <= p[1] for p in pairs)


@flags.multi_flags_validator(
    ["augment", "quarter_turns", "rotations"],
    "only one of --augment, --quarter_turns and --rotations can be set",
)
def _one_transform(values):
    return sum(map(bool, values.values())) <= 1


@flags.multi_flags_validator(["data", "data_path"], "--data_path must be set for it")
def _own_data(values):
    return values["data"] not in ("folder", "arrays", "texts") or values["data_path"]


@flags.multi_flags_validator(
    ["num_seeds", "distributed", "coordinator"],
    "--num_seeds is for one process: start one for each share of the seeds, with --seed "
    "and --workdir of its own",
)
def _seeds_in_one_process(values):
    return values["num_seeds"] == 1 or not (
        values["distributed"] or values["coordinator"]
    )


@flags.multi_flags_validator(
    ["num_seeds", "divide_state"], "--divide_state is for a single seed"
)
def _divides_one_state(values):
    return values["num_seeds"] == 1 or not values["divide_state"]


@flags.multi_flags_validator(
    ["num_tasks", "tasks_per_chunk"], "--tasks_per_chunk must divide --num_tasks"
)
def _divides(values):
    return values["num_tasks"] % (values["tasks_per_chunk"] or 1) == 0


def with_saved_flags(argv: list[str]) -> list[str]:
    """A command line with the flags of a saved run before its own, for --eval_only."""
    known = flags.FlagValues()
    flags.DEFINE_bool("eval_only", False, "", flag_values=known)
    flags.DEFINE_string("workdir", "", "", flag_values=known)
    known(argv, known_only=True)
    record = Path(known.workdir) / "run.flags"
    if known.eval_only and record.exists():
        return [argv[0], f"--flagfile={record}", *argv[1:]]
    return argv


def _parse(argv: list[str]) -> list[str]:
    return app.parse_flags_with_usage(with_saved_flags(argv))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Unexpected argument {argv[1]!r}: all settings are --flags.")
    import jax  # Like the runner, after the flags, so that --help is quick.

    from experiments import startup

    if jax.config.jax_num_cpu_devices < 0 and FLAGS.num_processes is None:
        jax.config.update("jax_num_cpu_devices", startup.num_cores())
    from experiments import runner

    sys.exit(runner.run(FLAGS, _STARTED))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
