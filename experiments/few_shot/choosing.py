"""Which parts the flags name, and what does not go together; no JAX here."""

from types import SimpleNamespace

from absl import flags

from experiments import command, door
from experiments.door import Part
from experiments.few_shot.adjoints import ADJOINTS, SOLVERS
from experiments.few_shot.data import DATA
from experiments.few_shot.data.encoding import ENCODING, TEXT_LENGTH, VOCABULARY
from experiments.few_shot.data.tasks import (
    AUGMENT,
    CLASSES,
    DATA_DIR,
    QUARTER_TURNS,
    ROTATIONS,
)
from experiments.few_shot.encoders import ENCODER, ENCODERS
from experiments.few_shot.flags import FLAGS, integer, one_of
from experiments.few_shot.learners import LEARNERS
from experiments.few_shot.models import MODELS
from experiments.few_shot.outer import (
    ESTIMATOR,
    ESTIMATORS,
    FROZEN,
    OUTER_CLIP,
    OUTER_OPTIMIZER,
    OUTER_OPTIONS,
    OUTER_SCHEDULE,
    SCHEDULES,
)
from experiments.few_shot.parts import Data, FrozenEncoder, Learner
from experiments.few_shot.readers import READERS

DATA_SET = one_of(
    "data",
    "sinusoid",
    list(DATA),
    "The task distribution; folder, arrays and texts are your own data.",
)
MODEL = one_of("model", "mlp", list(MODELS), "The model; the last four are for text.")
LEARNER = one_of("learner", "maml", list(LEARNERS), "The meta-learner.")
NUM_TASKS = integer("num_tasks", 32, "Tasks an outer step.", 1)
TASKS_PER_CHUNK = integer(
    "tasks_per_chunk",
    None,
    "Tasks that a device holds at a time; must divide --num_tasks. By default all, or one "
    "where tasks are images and the device is a CPU.",
    1,
)
MAX_SKIPPED = integer(
    "max_skipped",
    10,
    "Outer steps in a row that are skipped, their loss or gradient not being finite, "
    "before training stops.",
    0,
)
NUM_VALIDATION_TASKS = integer("num_validation_tasks", 600, "Tasks to choose by.", 2)
NUM_TEST_TASKS = integer("num_test_tasks", 600, "Unseen tasks to report.", 2)
EVAL_TASKS_PER_CHUNK = integer(
    "eval_tasks_per_chunk", 100, "Tasks held at a time in evaluation.", 1
)
# What every run reads, whatever it chooses.
ALWAYS = (
    *(DATA_SET, DATA_DIR, ENCODER, MODEL, LEARNER, ESTIMATOR),
    *(OUTER_OPTIMIZER, OUTER_OPTIONS, OUTER_CLIP, OUTER_SCHEDULE, FROZEN),
    *(NUM_TASKS, TASKS_PER_CHUNK, MAX_SKIPPED),
    *(NUM_VALIDATION_TASKS, NUM_TEST_TASKS, EVAL_TASKS_PER_CHUNK),
)
CHOICES = {
    "data": DATA,
    "encoder": ENCODERS,
    "model": MODELS,
    "learner": LEARNERS,
    "reader": READERS,
    "adjoint": ADJOINTS,
    "solver": SOLVERS,
    "estimator": ESTIMATORS,
    "outer_schedule": SCHEDULES,
}


class Chosen(SimpleNamespace):
    """The parts that flags name: data, encoder, model, learner, estimator, schedule.

    `adjoint` is None where flags choose none. Beside them their names, as resolved.
    """

    data: Data
    encoder: FrozenEncoder
    model: Part
    learner: Learner
    estimator: Part
    schedule: Part
    adjoint: Part | None
    names: dict[str, str]

    @property
    def parts(self) -> dict[str, Part]:
        """By the flag that chooses it, every part whose flags are read."""
        return {choice: CHOICES[choice][name] for choice, name in self.names.items()}


def chosen(values: dict) -> Chosen:
    """The parts that the values of all flags name."""
    learner = LEARNERS[values["learner"]]
    names = {name: values[name] for name in ("data", "encoder", "model", "learner")}
    names["estimator"] = values["estimator"] or learner.estimator
    names["outer_schedule"] = values["outer_schedule"]
    if "reader" in door.flag_names(learner):
        names["reader"] = values["reader"]
    if learner.adjoint and names["estimator"] == "backprop":
        names["adjoint"] = values["adjoint"] or learner.adjoint
        if names["adjoint"] == "implicit":
            names["solver"] = values["solver"]
    adjoint = names.get("adjoint")
    return Chosen(
        data=DATA[names["data"]],
        encoder=ENCODERS[names["encoder"]],
        model=MODELS[names["model"]],
        learner=learner,
        estimator=ESTIMATORS[names["estimator"]],
        schedule=SCHEDULES[names["outer_schedule"]],
        adjoint=adjoint and ADJOINTS[adjoint],
        names=names,
    )


def now() -> Chosen:
    """The parts that the flags name."""
    return chosen({name: FLAGS[name].value for name in FLAGS})


def sections() -> dict[str, list[str]]:
    """For help: the flags that every run reads, and those of the parts chosen now."""
    picked = now()
    return command.sections("Every few-shot run", ALWAYS, picked.parts, picked.names)


def lists() -> dict[str, dict[str, str]]:
    """What there is to choose, a line each."""
    named = ("data", "encoder", "model", "learner", "adjoint", "estimator")
    chosen = {choice: CHOICES[choice] for choice in named}
    return command.lists(command.PRESETS, chosen)


# What does not go together


@flags.multi_flags_validator(list(FLAGS), flag_values=FLAGS)
def _fits(values):
    picked = chosen(values)
    for holds, message in (*_demands(picked, values), *picked.learner.needs):
        if not holds(SimpleNamespace(**values)):
            # Not a ValidationError, to which absl would add all these flags.
            raise flags.IllegalFlagValueError(message)
    read = [*picked.parts.values(), Part("", dict, ALWAYS)]
    door.refuse_unread(read, CHOICES, command.given(FLAGS, values))
    return True


# What changes images, or splits texts up, and so has nothing left to do.
_BEFORE_ENCODERS = (
    AUGMENT,
    QUARTER_TURNS,
    ROTATIONS,
    ENCODING,
    VOCABULARY,
    TEXT_LENGTH,
)


def _encoder_demands(picked: Chosen):
    """Likewise, where a frozen encoder is chosen."""
    name, takes = picked.names["encoder"], picked.encoder.takes
    fitting = [
        name
        for name, data in DATA.items()
        if data.raw.about in takes and data.tasks is CLASSES
    ]
    yield (
        lambda f: f.data in fitting,
        f"--encoder={name} is for {' or '.join(takes)}: --data={', '.join(fitting)}",
    )
    models = picked.encoder.models
    yield (
        lambda f: f.model in models,
        f"--encoder={name} gives what --model={', '.join(models)} takes",
    )
    for holder in _BEFORE_ENCODERS:
        yield (
            lambda f, holder=holder: getattr(f, holder.name) == holder.default,
            f"--{holder.name} has no use with --encoder={name}, which sees examples as "
            "they are",
        )


def _demands(picked: Chosen, values: dict):
    """What flags must be for the parts that they name: lines of `(holds, message)`."""
    learner = picked.learner
    if picked.encoder.takes:
        yield from _encoder_demands(picked)
    else:
        yield (
            lambda f: f.model != "minilm_blocks",
            "--model=minilm_blocks takes what --encoder=minilm_tokens gives",
        )
    if not learner.moves:
        yield (
            lambda f: f.estimator != "displacement",
            "--estimator=displacement needs inner steps that move what is meta-learned, "
            "which --learner=warpgrad and learners without inner steps have not",
        )
    if not learner.rests:
        resting = ", ".join(name for name, each in LEARNERS.items() if each.rests)
        yield (
            lambda f: f.adjoint != "implicit",
            f"--adjoint=implicit is for --learner={resting}: a point of rest does not "
            "depend on the initialisation or the rates that the others learn",
        )
    if learner.any_ways:
        yield (
            lambda f: f.data != "sinusoid",
            "--data=sinusoid is no classification, which this --learner needs",
        )
    else:
        free = ", ".join(name for name, each in LEARNERS.items() if each.any_ways)
        yield (
            lambda f: f.eval_ways in (None, f.ways),
            f"--eval_ways other than --ways is for --learner={free}",
        )
    if "data_path" in door.flag_names(picked.data):
        yield (
            lambda f: f.data_path,
            f"--data_path must be set for --data={values['data']}",
        )
    if picked.names["estimator"] != "backprop":
        yield (
            # Runs of the time when unroll was the default have it in their flags.
            lambda f: f.adjoint in (None, "unroll"),
            "--adjoint is for --estimator=backprop: no other differentiates inner steps",
        )
    yield (
        lambda f: f.num_tasks % (f.tasks_per_chunk or 1) == 0,
        "--tasks_per_chunk must divide --num_tasks",
    )
