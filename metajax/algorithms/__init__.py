"""Meta-learning algorithms, one paper a file."""

from metajax.algorithms.maml import fomaml as fomaml
from metajax.algorithms.maml import maml as maml
