"""WarpGrad: layers between those that inner steps adapt."""

from experiments.door import Part
from experiments.few_shot.inner import INNER_CLIP, INNER_RATE, STEPS
from experiments.few_shot.parts import Learner


def make(given, *, inner_rate, inner_clip, every_step=False):
    import metajax as mj

    return mj.warpgrad(
        given.model,
        given.loss,
        given.num_steps,
        rate=inner_rate,
        clip=inner_clip,
        every_step=every_step,
    )


def equal(step, num_steps):
    import jax.numpy as jnp

    del step
    return jnp.full(num_steps, 1 / num_steps)


LEARNER = Learner(
    "meta-learned layers between those that inner steps adapt",
    make,
    (INNER_RATE, INNER_CLIP),
    also=STEPS,
    needs=(
        (
            lambda flags: flags.warp and flags.inner_steps > 0,
            "--learner=warpgrad needs --warp and at least one of --inner_steps",
        ),
    ),
    step_weights=Part("equal", equal),
)
