"""scikit-learn's interface to networks that were pre-trained on drawn tables."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError(
        "metajax.tabular needs scikit-learn, at least 1.6: pip install 'metajax[tabular]'."
    ) from None

from metajax.tabular import networks
from metajax.tabular.networks import MOST_COLUMNS, MOST_ROWS


class _Estimator(BaseEstimator):
    """What both estimators share: bounds, scales, and rows that come as arrays."""

    def __init__(self, params: str | Path | None = None):
        self.params = params

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _network(self, name: str) -> networks.Network:
        if self.params is None:
            return networks.shipped(name)
        network = networks.read(self.params)
        if (network.classes > 0) != (name == "classes"):
            raise ValueError(
                f"{self.params} is a network for "
                f"{'classes' if network.classes else 'numbers'}, and not for {name}: "
                "Classifier takes the former, Regressor the latter."
            )
        return network

    def _fit_scales(self, inputs: np.ndarray) -> np.ndarray:
        """Columns of a spread that float32 holds, whatever they are measured in."""
        rows, columns = inputs.shape
        if rows > MOST_ROWS or columns > MOST_COLUMNS:
            raise ValueError(
                f"{type(self).__name__} learns from at most {MOST_ROWS} rows of "
                f"{MOST_COLUMNS} columns: got {rows} of {columns}. Draw some of the rows, "
                "or choose columns, such as by sklearn.feature_selection.SelectKBest."
            )
        # Of columns without a value there is nothing to know.
        unknown = np.all(np.isnan(inputs), axis=0, keepdims=True)
        known = np.where(unknown, 0, inputs)
        self.center_ = np.nanmedian(known, axis=0)
        spread = np.nanmax(np.abs(known - self.center_), axis=0)
        least = 1e-12 * np.abs(self.center_)  # Less is rounding.
        self.scale_ = np.where(spread > least, spread, 1.0)
        return self._scaled(inputs)

    def _scaled(self, inputs: np.ndarray) -> np.ndarray:
        scaled = (inputs - self.center_) / self.scale_
        return np.clip(scaled, -1e6, 1e6).astype(np.float32)

    def _asked(self, X) -> np.ndarray:
        """Scaled rows to predict."""
        check_is_fitted(self)
        return self._scaled(_rows(self, X, reset=False))


def _rows(estimator: _Estimator, *data, **options) -> Any:
    """Checked data; NaN is a missing value."""
    return validate_data(
        estimator, *data, dtype=np.float64, ensure_all_finite="allow-nan", **options
    )


class Classifier(ClassifierMixin, _Estimator):
    """Classifies rows of small tables by a pre-trained network, which reads the rest.

    `fit` trains nothing: it reads the table, a pass through the network. Values are
    numbers, NaN where they are missing; a column that is missing throughout is ignored.
    Strings are refused but as labels: encode them, such as by
    `sklearn.preprocessing.OrdinalEncoder`; the order of codes counts for little.

    Args:
      members: with how many orders of the classes a table is read, at most one for each
        class; probabilities are their mean.
      params: a file of parameters, `best.npz` of a run of `experiments.tabular`; None for
        those that the package brings.

    Attributes:
      classes_: the labels seen in `fit`.
      n_features_in_: columns seen in `fit`.

    Raises:
      ValueError: by `fit`, if a table has more than 1024 rows, 32 columns or 10 classes
        (as many as the parameters are for), a single class, strings or infinite values.

    Example:
      >>> from sklearn.datasets import load_iris  # doctest: +SKIP
      >>> from sklearn.model_selection import cross_val_score  # doctest: +SKIP
      >>> X, y = load_iris(return_X_y=True)  # doctest: +SKIP
      >>> cross_val_score(Classifier(), X, y)  # doctest: +SKIP
    """

    def __init__(self, members: int = 4, params: str | Path | None = None):
        super().__init__(params)
        self.members = members

    def fit(self, X, y) -> "Classifier":
        """Reads a table of `[rows, columns]` and its labels, `[rows]`."""
        inputs, labels = _rows(self, X, y)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        number = len(self.classes_)
        if number < 2:
            raise ValueError(
                "Classifier needs rows of at least two classes: got 1 class, "
                f"{self.classes_[0]!r}."
            )
        network = self._network("classes")
        if number > network.classes:
            raise ValueError(
                f"Classifier tells at most {network.classes} classes apart: got {number}. "
                "For numbers to predict there is Regressor; of more classes, join rare "
                "ones, or use sklearn.multiclass.OutputCodeClassifier."
            )
        if self.members < 1:
            raise ValueError(f"members must be at least 1: got {self.members}.")
        scaled = self._fit_scales(inputs)
        self.adapted_ = [
            networks.adapt(network, scaled, ((codes + shift) % number).astype(np.int32))
            for shift in range(min(self.members, number))
        ]
        return self

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each of `classes_`, `[rows, classes]`."""
        inputs = self._asked(X)
        network, number = self._network("classes"), len(self.classes_)
        each = []
        for shift, adapted in enumerate(self.adapted_):
            logits = networks.predict(network, adapted, inputs)[:, :number]
            shares = special.softmax(logits.astype(np.float64), axis=1)
            each.append(np.roll(shares, -shift, axis=1))
        return np.mean(each, axis=0)

    def predict(self, X) -> np.ndarray:
        """The most probable class of each row."""
        places = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[places]


class Regressor(RegressorMixin, _Estimator):
    """Predicts numbers in small tables by a pre-trained network, which reads the rest.

    As `Classifier`; the network predicts a normal distribution.

    Args:
      params: as in `Classifier`.

    Attributes:
      n_features_in_: columns seen in `fit`.

    Raises:
      ValueError: by `fit`, if a table has more than 1024 rows or 32 columns, strings or
        infinite values.
    """

    def fit(self, X, y) -> "Regressor":
        """Reads a table of `[rows, columns]` and its numbers, `[rows]`."""
        inputs, targets = _rows(self, X, y, y_numeric=True)
        targets = np.asarray(targets, np.float64)
        self.mean_, std = targets.mean(), targets.std()
        self.std_ = std if std > 1e-12 * abs(self.mean_) else 1.0
        targets = ((targets - self.mean_) / self.std_).astype(np.float32)
        network = self._network("numbers")
        scaled = self._fit_scales(inputs)
        self.adapted_ = networks.adapt(network, scaled, targets[:, None])
        return self

    def predict(self, X, return_std: bool = False):
        """The mean of each row's number, `[rows]`; with `return_std` its deviation too."""
        inputs = self._asked(X)
        outputs = networks.predict(self._network("numbers"), self.adapted_, inputs)
        mean, std = (np.asarray(each[:, 0], np.float64) for each in outputs)
        mean, std = mean * self.std_ + self.mean_, std * self.std_
        return (mean, std) if return_std else mean
