"""Inner steps: the flags of learners that take them, and their usual factory."""

from absl import flags

from experiments.few_shot.flags import FLAGS, integer, names, number, positive, text

INNER_STEPS = integer("inner_steps", 1, "Inner steps in training.", 0)
EVAL_INNER_STEPS = names(
    "eval_inner_steps",
    None,
    "Inner steps to report; 0,1,5,10 by default, and 0 for learners that take none.",
)
SELECT_INNER_STEPS = names(
    "select_inner_steps",
    None,
    "Inner steps on the validation tasks by which the best parameters are chosen, the "
    "mean if several; 10 by default, and 0 for learners that take none.",
)
STEPS = (INNER_STEPS, EVAL_INNER_STEPS, SELECT_INNER_STEPS)

INNER_OPTIMIZER = text(
    "inner_optimizer",
    "sgd",
    "Of inner steps: sgd, adam or another of optax, or package.module:factory.",
)
INNER_RATE = number(
    "inner_rate",
    0.01,
    "Rate of the inner optimizer, at which maml_plus_plus starts to learn its own.",
)
positive(INNER_RATE)
INNER_OPTIONS = names(
    "inner_options",
    [],
    "Further arguments of the inner optimizer, such as eps_root=1e-8.",
)
INNER_CLIP = number(
    "inner_clip",
    None,
    "Greatest size of each number of an inner gradient, to which larger ones are cut, so "
    "that no task diverges; none are by default.",
)
positive(INNER_CLIP)
OPTIMIZER = (INNER_OPTIMIZER, INNER_RATE, INNER_OPTIONS, INNER_CLIP)

ADAPTED = names(
    "adapted",
    [],
    "Parameters that the inner loop changes, as shell patterns such as Conv_*,head/*; "
    "all by default.",
)
PER_STEP = names(
    "per_step",
    [],
    "What each inner step has of its own: rates (meta_sgd, maml_plus_plus), "
    "normalization (maml_plus_plus with conv4).",
)
REGULARIZATION = number(
    "regularization",
    2.0,
    "Weight of imaml's proximal term, or of the squared weights of metaoptnet's head.",
)
positive(REGULARIZATION)


@flags.validator(
    EVAL_INNER_STEPS.name,
    "must be ascending integers, such as 0,1,5,10",
    flag_values=FLAGS,
)
@flags.validator(
    SELECT_INNER_STEPS.name,
    "must be ascending integers, such as 1,5,10",
    flag_values=FLAGS,
)
def _ascending(steps):
    if steps is None:
        return True
    if not steps or not all(step.isdecimal() for step in steps):
        return False
    return steps == sorted(set(steps), key=int)


def descending(name: str):
    """A factory of learners of a model, a loss, an inner optimizer and an adjoint.

    Args:
      name: the learner's in metajax.
    """

    def make(given):
        import metajax as mj

        return getattr(mj, name)(
            given.model,
            given.loss,
            given.optimizer,
            given.num_steps,
            adjoint=given.adjoint,
        )

    return make
