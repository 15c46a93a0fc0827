"""Task distributions and the data behind them."""

from metajax.data.cifar import cifar_fs as cifar_fs
from metajax.data.cifar import fc100 as fc100
from metajax.data.class_lists import SPLITS as SPLITS
from metajax.data.clinc150 import clinc150 as clinc150
from metajax.data.few_shot import ClassArrays as ClassArrays
from metajax.data.few_shot import FewShot as FewShot
from metajax.data.few_shot import by_fraction as by_fraction
from metajax.data.few_shot import by_name as by_name
from metajax.data.few_shot import from_arrays as from_arrays
from metajax.data.folder import from_csv as from_csv
from metajax.data.folder import from_folder as from_folder
from metajax.data.folder import from_npz as from_npz
from metajax.data.glyphs import glyphs as glyphs
from metajax.data.host import FromHost as FromHost
from metajax.data.linear_regression import LinearRegression as LinearRegression
from metajax.data.linear_regression import least_squares as least_squares
from metajax.data.mnist import mnist as mnist
from metajax.data.omniglot import omniglot as omniglot
from metajax.data.sinusoid import Sinusoid as Sinusoid
from metajax.data.text import from_texts as from_texts
from metajax.data.text import idf as idf
from metajax.data.text import ngrams as ngrams
from metajax.data.text import words as words
from metajax.data.tfds_arrays import DataError as DataError
from metajax.data.transforms import quarter_turns as quarter_turns
from metajax.data.transforms import rotate as rotate
