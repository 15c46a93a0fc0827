"""CAVIA: inner steps change a few context parameters."""

from experiments.few_shot.adjoints import ADJOINT
from experiments.few_shot.flags import integer
from experiments.few_shot.inner import OPTIMIZER, STEPS
from experiments.few_shot.parts import Learner

NUM_CONTEXT = integer("num_context", 5, "Context parameters of cavia.", 1)


def make(given, *, num_context):
    import metajax as mj

    return mj.cavia(
        given.model,
        given.loss,
        given.optimizer,
        given.num_steps,
        num_context=num_context,
        adjoint=given.adjoint,
    )


LEARNER = Learner(
    "inner steps change a few context parameters alone",
    make,
    (NUM_CONTEXT,),
    also=(*STEPS, *OPTIMIZER, ADJOINT),
    adjoint="unroll",
    rests=True,
    moves=True,
    needs=(
        (
            lambda flags: flags.model in ("mlp", "conv4"),
            "--learner=cavia needs a model that takes a context: --model=mlp, conv4",
        ),
    ),
)
