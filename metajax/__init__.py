"""metajax: meta-learning in JAX."""

from metajax import adjoints as adjoints
from metajax import data as data
from metajax import estimators as estimators
from metajax import losses as losses
from metajax import models as models
from metajax.algorithms import anil as anil
from metajax.algorithms import boil as boil
from metajax.algorithms import fomaml as fomaml
from metajax.algorithms import maml as maml
from metajax.algorithms import meta_sgd as meta_sgd
from metajax.base import Batch as Batch
from metajax.base import MetaLearner as MetaLearner
from metajax.base import Model as Model
from metajax.base import Task as Task
from metajax.evaluation import Evaluation as Evaluation
from metajax.evaluation import evaluate as evaluate
from metajax.evaluation import mean_and_interval as mean_and_interval
from metajax.evaluation import paired_difference as paired_difference
from metajax.evaluation import summarize as summarize
from metajax.objectives import query_loss as query_loss
from metajax.training import TrainState as TrainState
from metajax.training import draw_tasks as draw_tasks
from metajax.training import init_state as init_state
from metajax.training import train as train
from metajax.training import train_step as train_step
