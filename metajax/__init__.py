"""metajax: meta-learning in JAX."""

from importlib import import_module

from metajax import adjoints as adjoints
from metajax import data as data
from metajax import encoders as encoders
from metajax import estimators as estimators
from metajax import losses as losses
from metajax import models as models
from metajax import problems as problems
from metajax import rules as rules
from metajax import trees as trees
from metajax import unrolls as unrolls
from metajax.algorithms import anil as anil
from metajax.algorithms import anp as anp
from metajax.algorithms import baseline as baseline
from metajax.algorithms import boil as boil
from metajax.algorithms import cavia as cavia
from metajax.algorithms import classifier as classifier
from metajax.algorithms import cnp as cnp
from metajax.algorithms import fomaml as fomaml
from metajax.algorithms import hypernetwork as hypernetwork
from metajax.algorithms import imaml as imaml
from metajax.algorithms import in_context as in_context
from metajax.algorithms import learned_rule as learned_rule
from metajax.algorithms import maml as maml
from metajax.algorithms import maml_plus_plus as maml_plus_plus
from metajax.algorithms import matching_net as matching_net
from metajax.algorithms import meta_baseline as meta_baseline
from metajax.algorithms import meta_curvature as meta_curvature
from metajax.algorithms import meta_sgd as meta_sgd
from metajax.algorithms import metaoptnet as metaoptnet
from metajax.algorithms import predict_sequence as predict_sequence
from metajax.algorithms import protonet as protonet
from metajax.algorithms import r2d2 as r2d2
from metajax.algorithms import relation_net as relation_net
from metajax.algorithms import reptile as reptile
from metajax.algorithms import sequence_loss as sequence_loss
from metajax.algorithms import warpgrad as warpgrad
from metajax.base import Batch as Batch
from metajax.base import Masked as Masked
from metajax.base import MetaLearner as MetaLearner
from metajax.base import Model as Model
from metajax.base import Task as Task
from metajax.evaluation import Evaluation as Evaluation
from metajax.evaluation import evaluate as evaluate
from metajax.evaluation import mean_and_interval as mean_and_interval
from metajax.evaluation import paired_difference as paired_difference
from metajax.evaluation import summarize as summarize
from metajax.exporting import export as export
from metajax.hypergrad import check_hypergrad as check_hypergrad
from metajax.learners import freeze as freeze
from metajax.objectives import multi_step_loss as multi_step_loss
from metajax.objectives import query_loss as query_loss
from metajax.objectives import step_weights as step_weights
from metajax.smoothness import check_slope as check_slope
from metajax.steps import Collected as Collected
from metajax.steps import TrainState as TrainState
from metajax.steps import scheduled_step as scheduled_step
from metajax.steps import train_step as train_step
from metajax.streams import draw_tasks as draw_tasks
from metajax.training import init_state as init_state
from metajax.training import train as train
from metajax.using import load as load


def __getattr__(name: str):
    if name == "tabular":  # When asked for, since it needs scikit-learn.
        return import_module("metajax.tabular")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
