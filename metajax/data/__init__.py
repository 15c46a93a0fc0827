"""Task distributions and the data behind them."""

from metajax.data.few_shot import ClassArrays as ClassArrays
from metajax.data.few_shot import FewShot as FewShot
from metajax.data.few_shot import by_fraction as by_fraction
from metajax.data.few_shot import by_name as by_name
from metajax.data.few_shot import from_arrays as from_arrays
from metajax.data.folder import from_folder as from_folder
from metajax.data.folder import from_npz as from_npz
from metajax.data.glyphs import glyphs as glyphs
from metajax.data.mnist import mnist as mnist
from metajax.data.omniglot import omniglot as omniglot
from metajax.data.sinusoid import Sinusoid as Sinusoid
from metajax.data.tfds_arrays import DataError as DataError
from metajax.data.transforms import quarter_turns as quarter_turns
from metajax.data.transforms import rotate as rotate

SPLITS = ("train", "validation", "test")
