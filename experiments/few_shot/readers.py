"""What reads the support examples of in_context."""

from experiments.door import Part
from experiments.few_shot.data.tasks import EVAL_SHOTS, SHOTS, WAYS
from experiments.few_shot.flags import integer

READER_WIDTH = integer(
    "reader_width", 64, "Width of a token in --reader, or filters of snail.", 1
)
READER_LAYERS = integer("reader_layers", 2, "Blocks of --reader=transformer.", 1)
READER_HEADS = integer("reader_heads", 4, "Attention heads of --reader=transformer.", 1)


def _transformer(outputs, *, reader_width, reader_layers, reader_heads):
    import metajax as mj

    return mj.models.in_context_transformer(
        outputs, width=reader_width, layers=reader_layers, heads=reader_heads
    )


def _snail(outputs, *, reader_width, ways, shots, eval_shots):
    import metajax as mj

    length = ways * max(shots, eval_shots or 1)
    return mj.models.snail(outputs, length=length, filters=reader_width)


READERS = {
    "transformer": Part(
        "attention, to which examples are a set",
        _transformer,
        (READER_WIDTH, READER_LAYERS, READER_HEADS),
    ),
    "snail": Part(
        "convolutions and attention along the examples",
        _snail,
        (READER_WIDTH, WAYS, SHOTS, EVAL_SHOTS),
    ),
}
