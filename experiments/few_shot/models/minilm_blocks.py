"""The last blocks of a pretrained sentence encoder, to be learned on."""

from experiments.door import Part
from experiments.few_shot.encoders import LAST_BLOCKS
from experiments.few_shot.flags import integer

RANK = integer("rank", 8, "Of the adapters of queries and values; 0 for none.", 0)


def make(problem, outputs, *, last_blocks, rank):
    import metajax as mj

    del problem
    return mj.encoders.minilm_blocks(last_blocks, outputs, rank=rank)


MODEL = Part(
    "the last blocks of MiniLM with low-rank adapters, for --encoder=minilm_tokens",
    make,
    (LAST_BLOCKS, RANK),
)
