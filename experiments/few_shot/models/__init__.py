"""The models, one a file: their flags, and how they are built."""

from experiments.defining import gathered

NAMES = ("mlp", "residual_mlp", "conv4", "bag", "text_cnn", "text_transformer")
MODELS = gathered(__name__, "MODEL", NAMES)
VECTOR_MODELS = ("mlp", "residual_mlp")  # Those that take features of an encoder.
