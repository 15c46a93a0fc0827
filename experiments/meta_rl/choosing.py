"""Which parts the flags name, and what does not go together; no JAX here."""

from types import SimpleNamespace

from absl import flags

from experiments import command, door
from experiments.door import Part
from experiments.meta_rl.flags import FLAGS, integer, one_of
from experiments.meta_rl.games import GAMES
from experiments.meta_rl.learners import LEARNERS
from experiments.meta_rl.outer import (
    FINAL_RATE,
    MAX_NORM,
    OUTER_LOSSES,
    RATE,
)
from experiments.meta_rl.policies import POLICIES, POLICY

GAME = one_of("game", "bandit", list(GAMES), "The game, whose tasks are learned.")
LEARNER = one_of("learner", "rl2", list(LEARNERS), "What adapts, and how it is taught.")
NUM_TASKS = integer("num_tasks", 512, "Tasks an outer step.", 1)
TASKS_PER_CHUNK = integer(
    "tasks_per_chunk",
    None,
    "Tasks that a device holds at a time, all by default; it divides those of an update.",
    1,
)
NUM_VALIDATION_TASKS = integer("num_validation_tasks", 1000, "Tasks to choose by.", 2)
NUM_TEST_TASKS = integer("num_test_tasks", 2000, "Unseen tasks to report.", 2)
EVAL_TASKS_PER_CHUNK = integer(
    "eval_tasks_per_chunk", 500, "Tasks held at a time in evaluation.", 1
)
ALWAYS = (
    *(GAME, LEARNER, POLICY, RATE, FINAL_RATE, MAX_NORM),
    *(
        NUM_TASKS,
        TASKS_PER_CHUNK,
        NUM_VALIDATION_TASKS,
        NUM_TEST_TASKS,
        EVAL_TASKS_PER_CHUNK,
    ),
)
CHOICES = {
    "game": GAMES,
    "learner": LEARNERS,
    "policy": POLICIES,
    "outer_loss": OUTER_LOSSES,
}
ADAPTING = ("maml", "fomaml")  # Parameters adapt, so that policies remember nothing.


def resolved(values: dict) -> dict[str, str]:
    """The names of the parts that the values of all flags choose."""
    names = {choice: values[choice] for choice in CHOICES}
    names["policy"] = names["policy"] or (
        "mlp" if names["learner"] in ADAPTING else "gru"
    )
    if "outer_loss" not in door.flag_names(LEARNERS[names["learner"]]):
        del names["outer_loss"]
    return names


def now() -> dict[str, str]:
    """The names of the parts that the flags choose."""
    return resolved({name: FLAGS[name].value for name in FLAGS})


def parts(names: dict[str, str]) -> dict[str, Part]:
    """The chosen parts by the flags that choose them."""
    return {choice: CHOICES[choice][name] for choice, name in names.items()}


def sections() -> dict[str, list[str]]:
    """For help: the flags that every run reads, and those of the parts chosen now."""
    names = now()
    return command.sections("Every run of games", ALWAYS, parts(names), names)


def lists() -> dict[str, dict[str, str]]:
    """What there is to choose, a line each."""
    return command.lists(command.PRESETS / "meta_rl", CHOICES)


@flags.multi_flags_validator(list(FLAGS), flag_values=FLAGS)
def _fits(values):
    names = resolved(values)
    for holds, message in _demands(names):
        if not holds(SimpleNamespace(**values)):
            # Not a ValidationError, to which absl would add all these flags.
            raise flags.IllegalFlagValueError(message)
    read = [*parts(names).values(), Part("", dict, ALWAYS)]
    door.refuse_unread(read, CHOICES, command.given(FLAGS, values))
    return True


def _demands(names: dict[str, str]):
    """What flags must be for the parts that they name: lines of `(holds, message)`."""
    if names["learner"] in ADAPTING:
        yield (
            lambda f: names["policy"] == "mlp",
            f"--learner={names['learner']} adapts the parameters of --policy=mlp, which "
            "remembers nothing",
        )
    if names.get("outer_loss") == "ppo":
        yield (
            lambda f: f.num_tasks % f.parts == 0,
            "--parts must divide --num_tasks",
        )
    several = names.get("outer_loss") == "ppo"
    yield (
        lambda f: (
            f.num_tasks // (f.parts if several else 1) % (f.tasks_per_chunk or 1) == 0
        ),
        "--tasks_per_chunk must divide the tasks of an update, --num_tasks / --parts",
    )
    if "heads" in door.flag_names(POLICIES[names["policy"]]):
        yield lambda f: f.width % f.heads == 0, "--heads must divide --width"
