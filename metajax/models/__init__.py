"""Models, written in Linen or taken from any flax module or pair of functions."""

from metajax.models import layers as layers
from metajax.models.adapters import from_linen as from_linen
from metajax.models.adapters import from_nnx as from_nnx
from metajax.models.attentive import attentive as attentive
from metajax.models.attentive import convolving as convolving
from metajax.models.conv4 import conv4 as conv4
from metajax.models.full_context import full_context as full_context
from metajax.models.mlp import mlp as mlp
from metajax.models.mlp import residual_mlp as residual_mlp
from metajax.models.readers import from_reader as from_reader
from metajax.models.readers import in_context_transformer as in_context_transformer
from metajax.models.readers import linear_attention as linear_attention
from metajax.models.recurrent import gru as gru
from metajax.models.snail import snail as snail
from metajax.models.tables import table_transformer as table_transformer
from metajax.models.text import bag as bag
from metajax.models.text import text_cnn as text_cnn
from metajax.models.text import text_transformer as text_transformer
from metajax.models.transformer import transformer as transformer
