"""Frozen encoders: pretrained networks whose features are the inputs of tasks."""

from metajax.encoders.efficientnet_lite0 import (
    efficientnet_lite0 as efficientnet_lite0,
)
from metajax.encoders.features import Encoder as Encoder
from metajax.encoders.features import encode as encode
from metajax.encoders.features import features as features
from metajax.encoders.features import from_encoder as from_encoder
from metajax.encoders.minilm import minilm as minilm
from metajax.encoders.minilm import minilm_blocks as minilm_blocks
from metajax.encoders.minilm import minilm_tokens as minilm_tokens
