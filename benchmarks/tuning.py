"""Whether a search finds better models than a default one, on flights, and how long it takes.

    make bench-tuning            about 6 minutes

The search knows the flights until 17 March 2013; both models are then judged once, on the two weeks after. The default is scikit-learn's
HistGradientBoostingClassifier() with carriers and airports as categories, on the same columns and rows. The gain in AUC has DeLong's
95 % interval. The time is that of the search and of fitting what it found.
"""

import argparse
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

from peers import judge
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

CUT, UNTIL = "2013-03-18", "2013-04-01"


def flights(root: Path, every: int):
    "Rows to learn from and rows to be judged on, made by the steps of the flagship."
    from mlworkbench import load
    from mlworkbench.core.settings import read_settings
    from mlworkbench.pipeline.request import Request
    from mlworkbench.pipeline.runner import run_pipeline

    project = Path(__file__).parent.parent
    (root / "settings.ini").write_text("[project]\nname = search\n")
    for folder in ("nbs/pipelines/flights", "nbs/contracts"):
        shutil.copytree(project / folder, root / folder)
    os.environ["MLW_PROJECT"] = str(root)
    request = Request(only="features", parameters={"ingest": {"every": every}})
    record = run_pipeline(read_settings(root), "flights", request)
    assert record["state"] == "done", record
    data = load("features.features").merge(load("features.labels"), on="flight_id")
    before = (data.departure < CUT) & (data.known_at < CUT)
    train = data[before].sort_values(["departure", "flight_id"], ignore_index=True)
    return train, data[(data.departure >= CUT) & (data.departure < UNTIL)]


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--every", type=int, default=1, help="keep each n-th flight")
    ask.add_argument("--budget", default="3m45s", help="time after which no trial begins")
    ask.add_argument("--seed", type=int, default=0)
    options = ask.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        train, test = flights(Path(folder), options.every)
        return compare(train, test, options)


def compare(train, test, options) -> int:
    "Search, fit, judge."
    from mlworkbench.data.splits import time_folds
    from mlworkbench.models.comparison import compare_auc
    from mlworkbench.models.spaces import rank_columns, ready_spaces
    from mlworkbench.models.tuning import tune

    columns = [c for c in train.columns if c not in ("flight_id", "departure", "late", "known_at")]
    began = time.perf_counter()
    folds = time_folds(train, "departure", 8, gap="12h")[4:]
    ranked = rank_columns(train[folds[0].train], columns, "late")
    workers = max(1, os.cpu_count() or 1)
    spaces = ready_spaces(train, ranked, seed=options.seed)
    found = tune(
        train, ranked, "late", folds, spaces,
        trials=500, budget=options.budget, workers=workers, seed=options.seed,
    )  # fmt: skip
    fitted = found.average(10).fit(train[ranked], train.late)
    seconds = time.perf_counter() - began
    told = fitted.predict_proba(test[ranked])[:, 1]
    states = found.trials.groupby(["family", "state"]).score.agg(["size", "max"])
    print(f"\n{len(train):,} flights to learn from, {len(test):,} to be judged on\n{states}\n")

    categories = ["carrier", "origin", "dest"]
    encode = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), categories),
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    trees = HistGradientBoostingClassifier(categorical_features=categories, random_state=0)
    default = make_pipeline(encode, trees).fit(train[columns], train.late)
    gain = compare_auc(test.late.to_numpy(), default.predict_proba(test[columns])[:, 1], told)
    alone = found.estimator.fit(train[ranked], train.late).predict_proba(test[ranked])[:, 1]
    print(
        f"the best trial alone, {found.family}: AUC {compare_auc(test.late.to_numpy(), told, alone).challenger:.4f}"
    )
    print(f"default → mean of the best ten: {gain.words(0.005)}")
    return judge([("search-gain-low", gain.low, 0.0, True), ("search-seconds", seconds, 300, False)])


if __name__ == "__main__":
    raise SystemExit(main())
