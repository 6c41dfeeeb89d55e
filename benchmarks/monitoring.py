"""How fast drift is found and performance estimated: here, by Evidently and by NannyML; and whether the estimates agree.

    make bench-monitoring         about 30 minutes
    python benchmarks/monitoring.py --rounds 1 --rows 100000

All sides work on the same two Parquet files in one run, interleaved; figures are medians of the rounds. The read counts on our side and does not on
theirs. Then how often each calls an alarm where nothing has moved, and where all has. Then the flights of 2013 are lived through (`mlw replay`). Evidently and NannyML run in environments of their own under .bench/, and every side in a process of its own, whose memory is counted.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from data import BATCH, Table, interleaved, side
from peers import environment, judge

from mlworkbench.core.settings import MonitorSection
from mlworkbench.data.profiles import profile, profile_stream
from mlworkbench.monitoring.drift import compare
from mlworkbench.monitoring.estimation import expected_metrics, fit_calibrator
from mlworkbench.monitoring.losses import LossEstimator

HERE = Path(__file__).parent


def make_file(path: Path, rows: int, seed: int, shift: float) -> None:
    "A Parquet file of 24 numbers and 6 categories; the first of each have moved by `shift` standard deviations or odds."
    rng, columns = np.random.default_rng(seed), {}
    for i in range(24):
        values = rng.normal(100, 15, rows) + (shift * 15 if i < 4 else 0)
        columns[f"x{i}"] = pa.array(values, mask=rng.random(rows) < 0.02) if i % 3 == 0 else pa.array(values)
    for i in range(6):
        odds = np.array([0.4, 0.3, 0.2, 0.1]) + np.array([-1, 1, 0, 0]) * (shift * 0.5 if i < 2 else 0)
        columns[f"k{i}"] = pa.array(rng.choice(["a", "b", "c", "d"], rows, p=odds))
    pq.write_table(pa.table(columns), path, row_group_size=BATCH)


def make_scores(path: Path, rows: int, seed: int, spread: float) -> None:
    "Scores of a model that is too sure of itself, with labels."
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, spread, rows)
    score = 1 / (1 + np.exp(-2 * truth))
    label = (rng.random(rows) < 1 / (1 + np.exp(-truth))).astype(int)
    pd.DataFrame({"score": score, "decision": (score >= 0.5).astype(int), "label": label}).to_parquet(path)


def drift(
    place: Path, rows: int, rounds: int, nannyml: Path | None, evidently: Path | None, table: Table
) -> list:
    before, now, known = place / "before.parquet", place / "now.parquet", place / "known.json"
    make_file(before, rows, 0, 0.0)
    make_file(now, rows, 1, 0.2)
    reader = pq.ParquetFile(before)
    batches = pa.RecordBatchReader.from_batches(reader.schema_arrow, reader.iter_batches(BATCH))
    known.write_text(json.dumps(profile_stream(batches)))
    ours = lambda kind, *more: side(sys.executable, "ours.py", kind, *more)
    sides = {
        "drift, ours, both files": lambda: ours("drift", before, now, 1),
        "drift, ours, against a stored profile": lambda: ours("window", known, now, 1),
    }
    if nannyml:
        sides["drift, NannyML"] = lambda: side(nannyml, "nannyml_side.py", "drift", before, now)
    if evidently:
        sides["drift, Evidently, its tests alone"] = lambda: side(
            evidently, "evidently_side.py", "bare", before, now
        )
        sides["drift, Evidently's preset"] = lambda: side(
            evidently, "evidently_side.py", "preset", before, now
        )
    found = interleaved(rounds, sides, [before, now])
    assert found["drift, ours, both files"][0]["alarms"] == ["k0", "k1", "x0", "x1", "x2", "x3"], found
    told = {name: table.add(name, f) for name, f in found.items()}
    (both, memory), (window, _) = (told[name] for name in list(sides)[:2])
    many, more = table.add(
        "drift, ours, 20 times the rows against a stored profile", [ours("window", known, now, 20)]
    )
    targets = [
        ("a window against a stored profile, seconds", window, 1, False),
        ("20 times the rows, seconds against 20 times one", many / (20 * window), 1.1, False),
        (
            "20 times the rows, memory, share",
            more / told["drift, ours, against a stored profile"][1],
            1.1,
            False,
        ),
    ]
    goals = {"drift, Evidently's preset": 80, "drift, Evidently, its tests alone": 15, "drift, NannyML": 15}
    for name, goal in goals.items():
        if name in told:
            targets.append((f"{name}, times slower than both files here", told[name][0] / both, goal, True))
            targets.append((f"{name}, its memory times ours", told[name][1] / memory, 8, True))
    if "drift, Evidently's preset" in told:
        seconds = told["drift, Evidently's preset"][0]
        targets.append(
            ("Evidently's preset, times slower than a stored profile", seconds / window, 200, True)
        )
    return targets


SIZES = (50, 200, 1_000, 10_000, 100_000, 1_000_000)  # rows of windows
KINDS = (
    [2] * 2 + [10] * 3 + [50] * 3 + [500] * 4
)  # categories of the columns that have some, beside 18 of numbers


def columns(rows: int, rng: np.random.Generator, shift: float = 0.0) -> pa.Table:
    "30 columns; numbers have moved by `shift` standard deviations, the mix of categories as much."
    made = {}
    for i in range(18):
        drawn = rng.normal(size=rows) if i % 3 else rng.lognormal(0, 1, rows)
        made[f"x{i}"] = pa.array(drawn + shift * (1.0 if i % 3 else 2.16))
    for i, many in enumerate(KINDS):
        odds = 1 / np.arange(1, many + 1)
        moved = odds * np.exp(shift * np.where(np.arange(many) % 2, 1.0, -1.0))
        made[f"k{i}_{many}"] = pa.array([f"c{c}" for c in rng.choice(many, rows, p=moved / moved.sum())])
    return pa.table(made)


def _alarmed(reference: dict, window: pa.Table) -> dict[str, bool]:
    "Column → whether it is an alarm or a warning."
    found = compare(reference, profile(window, reference), MonitorSection())
    return dict(zip(found.feature, found.status.isin(["alarm", "warn"]), strict=True))


def false_alarms(place: Path, evidently: Path | None, largest: int) -> list:
    "Windows in which nothing has moved, and ones in which all has: share of columns that are an alarm or a warning, beside Evidently's."
    rng = np.random.default_rng(0)
    before = columns(min(200_000, largest), rng)
    reference, folder = profile(before), place / "windows"
    folder.mkdir()
    pq.write_table(before, place / "windows.parquet")
    asked = [(0.0, n) for n in SIZES if n <= largest]
    asked += [(shift, n) for shift in (0.1, 0.2, 0.5) for n in (200, 1_000, 10_000)]
    ours: dict[tuple, list[dict[str, bool]]] = {}
    for shift, n in asked:
        repeats = 2 if n >= 1_000_000 else 5 if n >= 100_000 else 20
        for i in range(repeats):
            window = columns(n, rng, shift)
            ours.setdefault((shift, n), []).append(_alarmed(reference, window))
            if i < 3 and n <= 100_000:
                pq.write_table(window, folder / f"{shift}-{n}-{i}.parquet")
    theirs = (
        side(evidently, "evidently_side.py", "windows", place / "windows.parquet", folder)
        if evidently
        else {}
    )
    of = lambda part: lambda name: name.startswith(part) if part == "x" else name.endswith(part)
    groups = {"numbers": "x"} | {f"{many} categories": f"_{many}" for many in dict.fromkeys(KINDS)}
    print("\nshare of columns that are an alarm or a warning, ours / Evidently's", flush=True)
    print("| moved by | rows | all columns | " + " | ".join(groups) + " |")
    print("| --- " * (3 + len(groups)) + "|")
    worst = 0.0
    for (shift, n), told in ours.items():
        other = [theirs["drifted"][f] for f in theirs.get("drifted", {}) if f.startswith(f"{shift}-{n}-")]
        cells = []
        for wanted in (lambda name: True, *map(of, groups.values())):
            shares = [
                np.mean([v for t in side_ for c, v in t.items() if wanted(c)]) if side_ else None
                for side_ in (told, other)
            ]
            cells.append(" / ".join("–" if s is None else f"{s:.1%}" for s in shares))
        print(f"| {shift:g} σ | {n:,} | " + " | ".join(cells) + " |")
        if shift == 0:
            worst = max(worst, float(np.mean([v for t in told for v in t.values()])))
    print()
    return [("false alarms, share of features at the worst size", worst, 0.02, False)]


def estimates(place: Path, rounds: int, nannyml: Path, table: Table) -> list:
    "CBPE: the same figures as NannyML's on its own data set, and how fast."
    told = side(nannyml, "nannyml_side.py", "cbpe", place)
    reference, analysis = (pd.read_parquet(place / f"{name}.parquet") for name in ("reference", "analysis"))
    score, labels = reference.y_pred_proba.to_numpy(), reference.repaid.to_numpy()
    calibrator = fit_calibrator(score, labels) if told["calibrated"] else lambda s: s
    apart: dict[str, float] = {}
    for i, start in enumerate(range(0, told["rows"], told["chunk"])):
        part = analysis.iloc[start : start + told["chunk"]]
        s = part.y_pred_proba.to_numpy()
        acts = part.y_pred.to_numpy() == 1
        threshold = s[acts].min()
        assert (acts == (s >= threshold)).all()
        found = expected_metrics(s, calibrator(s), threshold)
        rows = expected_metrics(
            s + np.arange(len(s)) * 1e-12, calibrator(s)
        )  # NannyML takes tied rows one by one
        found["average_precision"] = rows["average_precision"]
        for name, values in told["values"].items():
            apart[name] = max(apart.get(name, 0.0), abs(found[name] - values[i]))
    print("CBPE, largest distance from NannyML:", ", ".join(f"{n} {v:.1e}" for n, v in apart.items()))
    ranks = {n: apart.pop(n) for n in ("auc", "average_precision")}
    before, now = place / "scores.parquet", place / "new.parquet"
    make_scores(before, 50_000, 0, 1.5)
    make_scores(now, 50_000, 1, 0.8)
    sides = {
        "CBPE of 50,000 rows, ours": lambda: side(sys.executable, "ours.py", "estimate", before, now),
        "CBPE of 50,000 rows, NannyML": lambda: side(nannyml, "nannyml_side.py", "estimate", before, now),
    }
    found = interleaved(max(rounds, 3), sides)
    (ours, _), (theirs, _) = (table.add(name, f) for name, f in found.items())
    return [
        ("CBPE, distance from NannyML, AUC and average precision", max(ranks.values()), 1e-6, False),
        ("CBPE, distance from NannyML, other metrics", max(apart.values()), 1e-8, False),
        ("CBPE, times faster than NannyML", theirs / ours, 5, True),
    ]


def losses(place: Path, nannyml: Path) -> list:
    "Direct loss estimation: how far estimates of each chunk are from what came, here and in NannyML, on its own data set."
    told = side(nannyml, "nannyml_side.py", "dle", place)
    reference, analysis = (pd.read_parquet(place / f"{name}.parquet") for name in ("reference", "analysis"))
    of = lambda rows: (rows[told["columns"]], rows.y_pred.to_numpy())
    known = LossEstimator(*of(reference), reference.y_true.to_numpy())
    away: dict[str, list[list[float]]] = {m: [[], []] for m in told["values"]}
    for i, start in enumerate(range(0, len(analysis), told["chunk"])):
        part = analysis.iloc[start : start + told["chunk"]]
        errors, found = part.y_true - part.y_pred, known(*of(part))
        came = {"mae": errors.abs().mean(), "rmse": (errors**2).mean() ** 0.5}
        for name, (ours, theirs) in away.items():
            ours.append(abs(found[name].value - came[name]))
            theirs.append(abs(told["values"][name][i] - came[name]))
    means = {name: [float(np.mean(part)) for part in both] for name, both in away.items()}
    print(
        "DLE, mean distance from the realised loss of a chunk:",
        ", ".join(f"{n} {a:.2f} here, {b:.2f} NannyML" for n, (a, b) in means.items()),
    )
    return [
        (f"DLE, distance from the realised {n}, share of NannyML's", a / b, 1, False)
        for n, (a, b) in means.items()
    ]


def replayed(place: Path) -> list:
    "The flights of 2013 as if lived, with the policy of this repository's settings.ini."
    from mlworkbench.core.settings import read_settings
    from mlworkbench.monitoring.replay import Plan, replay

    for folder in ("nbs/pipelines/flights", "nbs/contracts"):
        shutil.copytree(HERE.parent / folder, place / "replay" / folder)
    shutil.copy(HERE.parent / "settings.ini", place / "replay")
    os.environ["MLW_PROJECT"] = str(place / "replay")
    began = time.perf_counter()
    found = replay(
        read_settings(place / "replay"), Plan("flights"), lambda words: print(words[:160], flush=True)
    )
    minutes, names = (time.perf_counter() - began) / 60, ("static", "monthly", "loop")
    for metric in ("auc", "log_loss"):
        print(f"mean {metric}:", ", ".join(f"{n} {found.months[f'{metric}_{n}'].mean():.4f}" for n in names))
    print("retrainings:", found.retrainings)
    confirmed, refuted, early = found.estimated
    return [
        ("replay, minutes", minutes, 15, False),
        ("replay, AUC over the static model, low end", found.gains["auc over static"][1], 0, True),
        (
            "replay, log loss below the static model's, low end",
            found.gains["log_loss over static"][1],
            0,
            True,
        ),
        ("replay, AUC over monthly retraining", found.gains["auc over monthly"][0], -0.005, True),
        (
            "replay, retrainings, of monthly ones",
            found.retrainings["loop"] / found.retrainings["monthly"],
            0.99,
            False,
        ),
        ("replay, alarms by estimate that labels confirmed later", confirmed, 1, True),
        ("replay, share of such alarms not confirmed", refuted / max(early, 1), 0.1, False),
    ]


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--rows", type=int, default=1_000_000)
    options = ask.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    nannyml = environment("nannyml", ["nannyml", "statsmodels", "setuptools<81"])
    evidently = environment("evidently", ["evidently==0.7.*", "pandas<3", "numpy<2.3"])
    table, targets = Table(), []
    print("\n".join(table.lines))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if nannyml:
            targets += estimates(place, options.rounds, nannyml, table)
            targets += losses(place, nannyml)
        targets += drift(place, options.rows, options.rounds, nannyml, evidently, table)
        targets += false_alarms(place, evidently, options.rows)
        targets += replayed(place)
    print()
    return judge(targets)


if __name__ == "__main__":
    raise SystemExit(main())
