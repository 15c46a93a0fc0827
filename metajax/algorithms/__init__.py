"""Meta-learning algorithms, one paper a file."""

from metajax.algorithms.anil import anil as anil
from metajax.algorithms.anil import boil as boil
from metajax.algorithms.maml import fomaml as fomaml
from metajax.algorithms.maml import maml as maml
from metajax.algorithms.meta_sgd import meta_sgd as meta_sgd
