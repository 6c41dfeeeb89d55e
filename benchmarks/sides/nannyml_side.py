"""NannyML's side, in an environment of its own: `drift REFERENCE CURRENT`, `cbpe FOLDER`, `dle FOLDER`, or `estimate REFERENCE CURRENT`. Prints JSON."""

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")
import nannyml
import pandas as pd
from memory import peak_mb

METRICS = {
    "roc_auc": "auc", "average_precision": "average_precision", "accuracy": "accuracy", "precision": "precision",
    "recall": "recall", "specificity": "specificity", "f1": "f1",
}  # fmt: skip


def drift(reference: str, current: str) -> dict:
    before, now = pd.read_parquet(reference), pd.read_parquet(current)
    began = time.perf_counter()
    columns = list(before.columns)
    found = nannyml.UnivariateDriftCalculator(
        column_names=columns,
        treat_as_categorical=[c for c in columns if before[c].dtype == object],
        chunk_number=1,
    )
    found.fit(before).calculate(now)
    return {"seconds": time.perf_counter() - began}


def estimator(scores: str, decision: str, label: str, chunk: int):
    return nannyml.CBPE(
        y_pred_proba=scores,
        y_pred=decision,
        y_true=label,
        metrics=list(METRICS),
        chunk_size=chunk,
        problem_type="classification_binary",
    )


def cbpe(folder: str) -> dict:
    "Estimates of each chunk of its shipped data set, and the rows that they were made of."
    reference, analysis, _ = nannyml.load_synthetic_car_loan_dataset()
    told = estimator("y_pred_proba", "y_pred", "repaid", 5000).fit(reference)
    found = told.estimate(analysis).to_df()
    calibrated = told.needs_calibration
    columns = ["y_pred_proba", "y_pred", "repaid"]
    reference[columns].to_parquet(f"{folder}/reference.parquet")
    analysis[columns[:2]].to_parquet(f"{folder}/analysis.parquet")
    chunks = found[found["chunk", "period"] == "analysis"]
    values = {ours: chunks[theirs, "value"].tolist() for theirs, ours in METRICS.items()}
    return {"values": values, "calibrated": bool(calibrated), "chunk": 5000, "rows": len(analysis)}


def estimate(reference: str, current: str) -> dict:
    before, now = pd.read_parquet(reference), pd.read_parquet(current)
    began = time.perf_counter()
    told = estimator("score", "decision", "label", len(now)).fit(before)
    found = told.estimate(now).filter(period="analysis").to_df()
    return {"seconds": time.perf_counter() - began, "auc": float(found["roc_auc", "value"].iloc[0])}


def dle(folder: str) -> dict:
    "Estimated and realised losses of each chunk of its shipped data set, and the rows that they were made of."
    pd.set_option("future.infer_string", False)  # its encoder can't take pandas' new strings
    reference, analysis, targets = nannyml.load_synthetic_car_price_dataset()
    columns = ["car_age", "km_driven", "price_new", "accident_count", "door_count", "fuel", "transmission"]
    told = nannyml.DLE(
        feature_column_names=columns,
        y_pred="y_pred",
        y_true="y_true",
        chunk_size=6000,
        metrics=["mae", "rmse"],
    ).fit(reference)
    found = told.estimate(analysis).filter(period="analysis").to_df()
    reference[[*columns, "y_pred", "y_true"]].to_parquet(f"{folder}/reference.parquet")
    joined = analysis.merge(targets, on="id")
    joined[[*columns, "y_pred", "y_true"]].to_parquet(f"{folder}/analysis.parquet")
    return {
        "values": {m: found[m, "value"].tolist() for m in ("mae", "rmse")},
        "columns": columns,
        "chunk": 6000,
    }


if __name__ == "__main__":
    told = {"drift": drift, "cbpe": cbpe, "dle": dle, "estimate": estimate}[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(told | {"peak_mb": peak_mb()}))
