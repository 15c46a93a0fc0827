"""The models, one a file: their flags, and how they are built."""

from experiments.defining import gathered

NAMES = (
    *("mlp", "residual_mlp", "conv4", "bag", "text_cnn", "text_transformer"),
    "minilm_blocks",
)
MODELS = gathered(__name__, "MODEL", NAMES)
