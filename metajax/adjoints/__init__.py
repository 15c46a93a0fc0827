"""The inner loop, and the ways to differentiate it.

An adjoint takes an inner loss, an optax transformation and a number of steps, and
returns `solve(params, args)`: the params after that many steps. The value is the same
whatever the adjoint; its derivative with respect to `params` and `args` is not, or not
at the same price.
"""

from metajax.adjoints.implicit import cg as cg
from metajax.adjoints.implicit import dense as dense
from metajax.adjoints.implicit import gmres as gmres
from metajax.adjoints.implicit import implicit as implicit
from metajax.adjoints.implicit import neumann as neumann
from metajax.adjoints.loops import mixed_mode as mixed_mode
from metajax.adjoints.loops import unroll as unroll
from metajax.adjoints.parts import by_path as by_path
from metajax.adjoints.parts import only as only
