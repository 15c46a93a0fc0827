"""The door of runs that learn to play: the one place where their flags are read."""

from functools import partial

from experiments import command, door
from experiments.meta_rl import choosing
from experiments.meta_rl.choosing import CHOICES
from experiments.meta_rl.flags import FLAGS

_ABOUT = """Meta-trains a policy on a family of games and reports it on unseen ones.

python -m experiments.meta_rl --flagfile=NAME --workdir=DIR

Later flags override earlier ones. A run that was cut off goes on when started again."""

_FREE = (
    "num_test_tasks",
    "eval_tasks_per_chunk",
    "tasks_per_chunk",
    "eval_steps",
    "eval_episodes",
    "tested_rules",
)


def main(started: float) -> None:
    """Runs what the command line asks for.

    Args:
      started: when the command began, by `time.time`.
    """
    command.start(
        FLAGS,
        partial(run, started),
        about=_ABOUT,
        presets=command.PRESETS / "meta_rl",
        sections_now=choosing.sections,
        lists_now=choosing.lists,
    )


def run(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    from experiments import running

    # Rates and bonuses fall along the run.
    settings = door.settings(FLAGS, free=_FREE, fixed=("num_steps",))
    return running.run(experiment, door.options(FLAGS), settings, started=started)


def experiment():
    """The experiment that the flags name."""
    from experiments.meta_rl import assembling, outer

    names = choosing.now()
    game, policy = game_and_policy()
    learning = door.bound(choosing.parts(names)["learner"], CHOICES)(game, policy)
    several = names.get("outer_loss") == "ppo"
    epochs, parts_of_tasks = (FLAGS.epochs, FLAGS.parts) if several else (1, 1)
    updates = FLAGS.num_steps * epochs * parts_of_tasks
    rates = FLAGS.rate, FLAGS.final_rate, FLAGS.max_norm
    return assembling.experiment(
        game,
        learning,
        outer.optimizer(updates, *rates),
        assembling.Updates(FLAGS.num_steps, epochs, parts_of_tasks),
        assembling.Tested(
            FLAGS.num_validation_tasks, FLAGS.num_test_tasks, FLAGS.eval_tasks_per_chunk
        ),
        num_tasks=FLAGS.num_tasks,
        tasks_per_chunk=FLAGS.tasks_per_chunk,
        belongs_to=belongs_to(),
    )


def game_and_policy():
    """The game that the flags name, and a policy for it."""
    parts = choosing.parts(choosing.now())
    game = door.bound(parts["game"], CHOICES)()
    num_steps = FLAGS.episodes * game.environment.horizon
    return game, door.bound(parts["policy"], CHOICES)(game, num_steps)


def belongs_to() -> dict[str, str]:
    """What parameters are of."""
    names = choosing.now()
    return {"game": names["game"], "policy": names["policy"]}
