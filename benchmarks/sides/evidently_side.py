"""Evidently's side, in an environment of its own: `preset REFERENCE CURRENT` or `bare REFERENCE CURRENT`, or `windows REFERENCE FOLDER`. Prints JSON."""

import json
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from memory import peak_mb


def report(before: pd.DataFrame, now: pd.DataFrame) -> dict:
    numbers = [c for c in before if before[c].dtype != object]
    texts = [c for c in before if before[c].dtype == object]
    about = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    both = [Dataset.from_pandas(part, data_definition=about) for part in (now, before)]
    return json.loads(Report([DataDriftPreset()]).run(*both).json())


def preset(reference: str, current: str) -> dict:
    before, now = pd.read_parquet(reference), pd.read_parquet(current)
    began = time.perf_counter()
    report(before, now)
    return {"seconds": time.perf_counter() - began}


def bare(reference: str, current: str) -> dict:
    "Its tests of each column alone: normed Wasserstein distance and Jensen-Shannon's, as its defaults for many rows have it."
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    before, now = pd.read_parquet(reference), pd.read_parquet(current)
    began = time.perf_counter()
    for column in before:
        kind = ColumnType.Categorical if before[column].dtype == object else ColumnType.Numerical
        test = get_stattest(before[column], now[column], kind, None)
        test(before[column].dropna(), now[column].dropna(), kind, None)
    return {"seconds": time.perf_counter() - began}


def windows(reference: str, folder: str) -> dict:
    "Which columns its preset calls drifted, in each file of the folder."
    before, drifted = pd.read_parquet(reference), {}
    for path in sorted(Path(folder).glob("*.parquet")):
        drifted[path.stem] = {
            m["config"]["column"]: _is_drift(m["value"], m["config"])
            for m in report(before, pd.read_parquet(path))["metrics"]
            if "column" in m["config"]
        }
    return {"drifted": drifted}


def _is_drift(value: float, config: dict) -> bool:
    return value < config["threshold"] if "p_value" in config["method"] else value >= config["threshold"]


if __name__ == "__main__":
    told = {"preset": preset, "bare": bare, "windows": windows}[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(told | {"peak_mb": peak_mb()}))
