"""Sinusoids, the regression of the first paper on MAML."""

from experiments.few_shot.data.raw import ARRAYS
from experiments.few_shot.data.tasks import POINTS
from experiments.few_shot.parts import Data

DATA = Data("sinusoids of random amplitude and phase", lambda: None, POINTS, ARRAYS)
