"""Prediction in tables by a network that was pre-trained on drawn ones: no training."""

from metajax.tabular.estimators import Classifier as Classifier
from metajax.tabular.estimators import Regressor as Regressor
