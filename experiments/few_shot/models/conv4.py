"""The usual convolutional network of four blocks."""

from experiments.door import Part
from experiments.few_shot.flags import one_of, switch
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
FINAL_RELU = switch(
    "final_relu", True, "Cut the features of conv4's last block off at 0."
)


def make(
    problem,
    outputs,
    *,
    width,
    downsample,
    normalization,
    init_std,
    warp,
    final_relu,
):
    import metajax as mj

    del problem
    return mj.models.conv4(
        outputs,
        width=width,
        downsample=downsample,
        normalization=normalization,
        head_std=init_std,
        warp=warp,
        final_relu=final_relu,
    )


MODEL = Part(
    "four blocks of convolutions, for images",
    make,
    (WIDTH, DOWNSAMPLE, NORMALIZATION, INIT_STD, WARP, FINAL_RELU),
)
