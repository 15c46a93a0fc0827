"""The usual convolutional network of four blocks."""

from experiments.door import Part
from experiments.few_shot.flags import one_of
from experiments.few_shot.models.shared import INIT_STD, WARP, WIDTH

DOWNSAMPLE = one_of(
    "downsample", "stride", ["stride", "pool"], "How conv4 halves its maps."
)
NORMALIZATION = one_of(
    "normalization",
    "transductive",
    ["transductive", "support", "layer", "group", "none"],
    "Whose statistics conv4 normalises by: the batch's, also in testing; the support "
    "batch's; each example's.",
)


def make(problem, outputs, *, width, downsample, normalization, init_std, warp):
    import metajax as mj

    del problem
    return mj.models.conv4(
        outputs,
        width=width,
        downsample=downsample,
        normalization=normalization,
        head_std=init_std,
        warp=warp,
    )


MODEL = Part(
    "four blocks of convolutions, for images",
    make,
    (WIDTH, DOWNSAMPLE, NORMALIZATION, INIT_STD, WARP),
)
