"""The baseline of ordinary training, and a new head for each task."""

from experiments.few_shot.flags import one_of
from experiments.few_shot.inner import OPTIMIZER, STEPS
from experiments.few_shot.parts import Learner

NEW_HEAD = one_of(
    "new_head",
    "linear",
    ["linear", "cosine"],
    "What baseline trains on the support examples, in evaluation alone.",
)


def make(given, *, new_head):
    import metajax as mj

    return mj.baseline(
        given.embedding,
        given.loss,
        given.optimizer,
        given.num_steps,
        ways=given.outputs,
        head=new_head,
    )


def trained(given):
    import metajax as mj

    return mj.classifier(given.model)


LEARNER = Learner(
    "ordinary training on all classes, then a new head for each task",
    make,
    (NEW_HEAD,),
    also=(*STEPS, *OPTIMIZER),
    any_ways=True,
    needs=(
        (
            lambda flags: flags.permute_labels == "eval",
            "--learner=baseline trains on all training classes at once: set --ways to "
            "their number, and --permute_labels=eval",
        ),
    ),
    trained=trained,
)
