"""How fast tables are checked, profiled and joined: here, by Great Expectations, whylogs, bare DuckDB and pandas.

    make bench-data              all of it, about 15 minutes
    python benchmarks/data.py --rounds 1 --rows 200000

All sides work on the same file in one run, interleaved; figures are medians of the rounds. Great Expectations and whylogs run in
environments of their own under .bench/, and whatever counts memory in a process of its own.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from peers import environment, judge

from mlworkbench.data.features import asof_join
from mlworkbench.data.profiles import profile
from mlworkbench.data.views import feature_view, materialize, online_features

HERE = Path(__file__).parent
BATCH = 100_000


def make_file(path: Path, rows: int) -> dict:
    "A Parquet file of 30 columns with some broken rows; the rules that they break."
    rng, columns, rules = np.random.default_rng(0), {}, {}
    for i in range(18):
        values = rng.normal(100, 15, rows)
        columns[f"x{i}"] = pa.array(values, mask=rng.random(rows) < 0.02)
        rules[f"x{i}"] = {"type": "number", "min": 30, "max": 170, "nulls": 0.05, "level": "warn"}
    for i in range(6):
        columns[f"n{i}"] = pa.array(rng.poisson(5, rows))
        rules[f"n{i}"] = {"type": "integer", "min": 0, "max": 16, "level": "warn"}
    for i in range(4):
        columns[f"k{i}"] = pa.array(
            rng.choice(["a", "b", "c", "d", "?"], rows, p=[0.4, 0.3, 0.2, 0.0999, 0.0001])
        )
        rules[f"k{i}"] = {"type": "string", "allowed": list("abcd"), "level": "warn"}
    codes = np.char.add(
        np.where(rng.random(rows) < 1e-4, "x", "N"), rng.integers(100, 9999, rows).astype(str)
    )
    columns["code"], rules["code"] = (
        pa.array(codes),
        {"type": "string", "matches": "N[0-9]+", "level": "warn"},
    )
    ids = np.arange(rows)
    ids[-5:] = ids[:5]
    columns["id"], rules["id"] = pa.array(ids), {"type": "integer", "unique": True, "level": "warn"}
    pq.write_table(pa.table(columns), path, row_group_size=BATCH)
    return {"columns": rules}


def side(python: str | Path, script: str, *arguments) -> dict:
    "What a side's process tells. Stops the benchmark if it fails."
    command = [str(python), str(HERE / "sides" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


KINDS = {
    "nothing is": "missing", "not_be_null": "missing", "missing": "missing",
    "at least": "range", "at most": "range", "between": "range",
    "allowed": "allowed", "in_set": "allowed", "matches": "pattern", "regex": "pattern", "unique": "unique",
}  # fmt: skip


def alike(broken: dict[str, int]) -> Counter:
    "Rows broken, by column and kind of rule: both sides word their rules in their own way."
    found: Counter = Counter()
    for words, rows in broken.items():
        column, _, rule = words.partition(" ")
        kind = next(
            kind
            for sign, kind in KINDS.items()
            if sign in rule and not (sign.startswith("at ") and "missing" in rule)
        )
        found[column, kind] += rows
    return found


def interleaved(
    rounds: int, sides: dict[str, Callable[[], dict | float]], files: Iterable[Path] = ()
) -> dict[str, list]:
    "Results of each side; who begins changes from round to round, and before each the files are read and memory is taken and given back: who follows a large process would pay for it."
    found, names = {name: [] for name in sides}, list(sides)
    for round_ in range(rounds):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            for file in files:
                file.read_bytes()
            np.ones(1 << 26)  # 512 MB that the machine may have given back to its host
            found[name].append(sides[name]())
    return found


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Table:
    "The lines of the printed table."

    def __init__(self) -> None:
        self.lines = [
            "| what | seconds, median | all rounds | peak memory, MB |",
            "| --- | ---: | --- | ---: |",
        ]

    def add(self, name: str, found: list) -> tuple[float, float]:
        "Median seconds and memory of a side."
        told = [f if isinstance(f, dict) else {"seconds": f, "peak_mb": float("nan")} for f in found]
        seconds = [t["seconds"] for t in told]
        median, peak = statistics.median(seconds), statistics.median(t["peak_mb"] for t in told)
        shown = "" if peak != peak else f"{peak:,.0f}"
        self.lines.append(f"| {name} | {median:.3g} | {', '.join(f'{s:.3g}' for s in seconds)} | {shown} |")
        print(self.lines[-1], flush=True)
        return median, peak


# --- what is measured ---


def contracts(place: Path, data: Path, rules: dict, rounds: int, table: Table) -> list:
    python = environment("great-expectations", ["great-expectations", "pandas", "pyarrow"])
    told = place / "rules.json"
    told.write_text(json.dumps(rules))
    sides = {"contract, ours": lambda: side(sys.executable, "ours.py", "contract", data, told)}
    if python:
        sides["contract, Great Expectations"] = lambda: side(
            python, "great_expectations_check.py", data, told
        )
    found = interleaved(rounds, sides)
    verdicts = {name: alike(f[0]["broken"]) for name, f in found.items()}
    assert len(set(map(str, map(sorted, map(Counter.items, verdicts.values()))))) == 1, verdicts
    (ours, memory), *theirs = (table.add(name, f) for name, f in found.items())
    if not theirs:
        return []
    return [
        ("contract, times faster than Great Expectations", theirs[0][0] / ours, 12, True),
        ("contract, share of its memory", memory / theirs[0][1], 1 / 3, False),
    ]


def profiles(place: Path, data: Path, rounds: int, table: Table) -> list:
    python = environment("whylogs", ["whylogs", "numpy<2", "pandas<3", "pyarrow<20"])
    reference = place / "reference.json"
    first = pq.ParquetFile(data).read_row_group(0)
    reference.write_text(json.dumps(profile(first)))
    ours = lambda times, *known: side(sys.executable, "ours.py", "profile", data, BATCH, times, *known)
    sides = {
        "profile, ours, in the bins of a reference": lambda: ours(1, reference),
        "profile, ours, without a reference": lambda: ours(1),
    }
    if python:
        sides["profile, whylogs"] = lambda: side(python, "whylogs_profile.py", data, BATCH)
    found = interleaved(rounds, sides)
    means = [f[0]["mean"] for f in found.values()]
    assert np.allclose(means, means[0], rtol=1e-9), means
    (known, _), (bare, memory), *theirs = (table.add(name, f) for name, f in found.items())
    _, more = table.add("profile, ours, without a reference, 20 times the rows", [ours(20)])
    targets = [("profile, memory of 20 times the rows, share", more / memory, 1.1, False)]
    if theirs:
        targets += [
            ("profile in a reference's bins, times faster than whylogs", theirs[0][0] / known, 25, True),
            ("profile without a reference, times faster than whylogs", theirs[0][0] / bare, 25, True),
        ]
    return targets


def asof(rows: int, rounds: int, table: Table) -> list:
    rng, start = np.random.default_rng(0), pd.Timestamp("2013-01-01", tz="UTC")
    hours, text = 8705, {"origin": "str", "at": "datetime64[us, UTC]"}
    at = np.tile(start + pd.to_timedelta(np.arange(hours), unit="h"), 3)
    weather = pd.DataFrame({"origin": np.repeat(["EWR", "JFK", "LGA"], hours), "at": at}).astype(text)
    for name in "abcdefghi":
        weather[name] = rng.normal(size=len(weather))
    asked = {
        "origin": rng.choice(["EWR", "JFK", "LGA"], rows),
        "at": start + pd.to_timedelta(rng.integers(0, (hours - 5) * 3600, rows), unit="s"),
        "x": rng.normal(size=rows),
    }
    flights = pd.DataFrame(asked).astype(text)

    def bare() -> pd.DataFrame:
        with duckdb.connect() as con:
            con.register("f", flights)
            con.register("w", weather)
            query = 'SELECT f.*, w.* EXCLUDE (origin, "at") FROM f ASOF LEFT JOIN w ON f.origin = w.origin AND f."at" >= w."at"'
            return con.sql(query).to_arrow_table().to_pandas()

    def pandas() -> pd.DataFrame:
        left = flights.assign(_row=np.arange(rows)).sort_values("at")
        joined = pd.merge_asof(
            left, weather.sort_values("at"), on="at", by="origin", tolerance=pd.Timedelta("3h")
        )
        return joined.sort_values("_row")

    ours = lambda: asof_join(flights, weather, on="at", by="origin", ttl="3h")
    assert np.allclose(ours().a, pandas().a.to_numpy(), equal_nan=True)
    sides = {"as-of join, ours": ours, "as-of join, bare DuckDB": bare, "as-of join, pandas": pandas}
    found = interleaved(max(rounds, 5), {n: lambda w=w: seconds_of(w) for n, w in sides.items()})
    mine, duck, merged = (table.add(name, f)[0] for name, f in found.items())
    return [
        ("as-of join, seconds against bare DuckDB", mine / duck, 1.3, False),
        ("as-of join, times faster than merge_asof", merged / mine, 1, True),
    ]


def online(place: Path, table: Table) -> list:
    names = [f"f{i}" for i in range(20)]

    @feature_view(entities=["customer"], timestamp="at", ttl="30d")
    def spending(history):
        return history

    rng, start = np.random.default_rng(0), pd.Timestamp("2013-01-01", tz="UTC")
    history = pd.DataFrame(rng.normal(size=(100_000, 20)), columns=names)
    history.insert(0, "customer", np.arange(100_000))
    history.insert(1, "at", pd.Series([start] * 100_000).astype("datetime64[us, UTC]"))
    engine = sa.create_engine(f"sqlite:///{place}/online.db")
    materialize(engine, spending, {"history": history}, until=start)
    seconds = []
    for _ in range(1000):
        asked = pd.DataFrame({"customer": rng.integers(0, 100_000, 100)})
        began = time.perf_counter()
        got = online_features(engine, asked, [spending], now=start)
        seconds.append(time.perf_counter() - began)
    assert np.array_equal(got.f7, history.f7[asked.customer])
    engine.dispose()
    table.lines.append(
        f"| online lookup of 100 rows × 20 features, 1,000 times | {statistics.median(seconds):.3g} | | |"
    )
    print(table.lines[-1], flush=True)
    return [("online lookup, milliseconds", statistics.median(seconds) * 1000, 2, False)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="contract,profile,asof,online")
    args = parser.parse_args()
    table, targets, wanted = Table(), [], args.only.split(",")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        data = place / "data.parquet"
        rules = make_file(data, args.rows)
        if "contract" in wanted:
            targets += contracts(place, data, rules, args.rounds, table)
        if "profile" in wanted:
            targets += profiles(place, data, args.rounds, table)
        if "asof" in wanted:
            targets += asof(args.rows, args.rounds, table)
        if "online" in wanted:
            targets += online(place, table)
    machine = platform.processor() or platform.machine()
    print(
        f"\n{machine}, {os.cpu_count()} cores, Python {platform.python_version()}, {date.today()}, {args.rounds} rounds, {args.rows:,} rows\n"
    )
    print("\n".join(table.lines) + "\n")
    return judge(targets)


if __name__ == "__main__":
    sys.exit(main())
