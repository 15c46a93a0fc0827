"""Reptile: moves the start toward where inner steps end."""

from experiments.few_shot.flags import integer, switch
from experiments.few_shot.inner import OPTIMIZER, STEPS
from experiments.few_shot.parts import Learner

INNER_BATCH = integer(
    "inner_batch", None, "Support examples a step of reptile; all if not set.", 1
)
KEEP_INNER_STATE = switch(
    "keep_inner_state",
    False,
    "Let reptile train on each task with the inner optimizer's state that former tasks "
    "have led to, as its authors' code does, rather than a fresh one.",
)


def make(given, *, inner_batch, keep_inner_state):
    import metajax as mj

    return mj.reptile(
        given.model,
        given.loss,
        given.optimizer,
        given.num_steps,
        batch_size=inner_batch,
        keep_state=keep_inner_state,
    )


def _between_states(flags) -> bool:
    return not flags.keep_inner_state or (
        flags.estimator in (None, "displacement")
        and flags.outer_optimizer == "sgd"
        and not flags.outer_options
        and max(flags.outer_rate, flags.outer_final_rate) <= 1
    )


LEARNER = Learner(
    "a start that moves toward where inner steps end",
    make,
    (INNER_BATCH, KEEP_INNER_STATE),
    also=(*STEPS, *OPTIMIZER),
    estimator="displacement",
    moves=True,
    needs=(
        (
            _between_states,
            "--keep_inner_state needs --estimator=displacement and --outer_optimizer=sgd, "
            "without --outer_options and with an --outer_rate, and --outer_final_rate, of "
            "at most 1: others could turn a mean square of the inner optimizer negative",
        ),
    ),
)
