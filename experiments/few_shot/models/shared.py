"""Flags that several models read."""

from experiments.few_shot.flags import integer, number, positive, switch

INIT_STD = number(
    "init_std",
    None,
    "Standard deviation of the initial weights of mlp, or of conv4's head; LeCun's if "
    "not set.",
)
positive(INIT_STD)
WARP = switch("warp", False, "Give the model layers for warpgrad.")
WIDTH = integer(
    "width", 64, "Features of each convolution of conv4, or of a token of text.", 1
)
