"""The fully connected network."""

from experiments.door import Part
from experiments.few_shot.flags import names, widths
from experiments.few_shot.models.shared import INIT_STD, WARP

HIDDEN = names(
    "hidden",
    ["40", "40"],
    "Widths of the hidden layers of mlp and residual_mlp; nothing for none.",
)
widths(HIDDEN)


def make(problem, outputs, *, hidden, init_std, warp):
    import metajax as mj

    del problem
    return mj.models.mlp([*map(int, hidden)], outputs, init_std=init_std, warp=warp)


MODEL = Part("layers of --hidden widths, for anything", make, (HIDDEN, INIT_STD, WARP))
