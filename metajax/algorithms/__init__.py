"""Meta-learning algorithms, one paper a file."""

from metajax.algorithms.anil import anil as anil
from metajax.algorithms.boil import boil as boil
from metajax.algorithms.cavia import cavia as cavia
from metajax.algorithms.imaml import imaml as imaml
from metajax.algorithms.maml import fomaml as fomaml
from metajax.algorithms.maml import maml as maml
from metajax.algorithms.maml_plus_plus import maml_plus_plus as maml_plus_plus
from metajax.algorithms.meta_curvature import meta_curvature as meta_curvature
from metajax.algorithms.meta_sgd import meta_sgd as meta_sgd
from metajax.algorithms.reptile import reptile as reptile
from metajax.algorithms.warpgrad import warpgrad as warpgrad
