"""Our side of the benchmarks that count memory too: a process of its own for each figure."""

import json
import sys
import threading
import time
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from memory import peak_mb

read_metadata = cache(pq.read_metadata)
_files = threading.local()


def opened(data: str, coded: bool) -> pq.ParquetFile:
    "The file, opened once by each thread; `coded`: texts as codes of a dictionary, as they stand in it."
    if (data, coded) not in vars(_files):
        about = read_metadata(data)
        texts = [f.name for f in about.schema.to_arrow_schema() if coded and pa.types.is_string(f.type)]
        options = {"read_dictionary": texts, "pre_buffer": False, "buffer_size": 1 << 16}
        vars(_files)[data, coded] = pq.ParquetFile(data, metadata=about, **options)
    return vars(_files)[data, coded]


def stream(
    data: str, batch_rows: int, times: int = 1, columns=None, coded: bool = False
) -> pa.RecordBatchReader:
    "The file's rows; `coded`: texts as codes of a dictionary, as they stand in it."
    file = opened(data, coded)
    schema = pa.schema([file.schema_arrow.field(n) for n in columns or file.schema_arrow.names])
    options = {"columns": columns, "use_threads": not coded}  # columns come side by side already
    batches = (b for _ in range(times) for b in file.iter_batches(batch_rows, **options))
    return pa.RecordBatchReader.from_batches(schema, batches)


def contract(data: str, rules: str) -> dict:
    import pandas  # noqa: F401
    import polars  # noqa: F401

    from mlworkbench.data.checks import check_stream
    from mlworkbench.data.contracts import read_contract

    wanted = read_contract(rules)
    began = time.perf_counter()
    result = check_stream(lambda columns=None: stream(data, 25_000, columns=columns), wanted)
    seconds = time.perf_counter() - began
    broken = {f"{b.column} {b.rule}": b.rows for b in result.breaches.itertuples()}
    return {"seconds": seconds, "broken": broken}


def profile(data: str, batch_rows: str, times: str, reference: str = "") -> dict:
    import datasketches  # noqa: F401
    import pandas  # noqa: F401

    from mlworkbench.data.profiles import profile_stream

    known = json.loads(Path(reference).read_text()) if reference else None
    began = time.perf_counter()
    made = profile_stream(stream(data, int(batch_rows), int(times)), known)
    seconds = time.perf_counter() - began
    columns = made["columns"]
    return {"seconds": seconds, "columns": len(columns), "mean": columns["x0"]["mean"], "rows": made["rows"]}


def drift(before: str, now: str, times: str) -> dict:
    "Both files are read and profiled, and compared."
    return _compared(lambda: _profiled(before), now, int(times))


def window(known: str, now: str, times: str) -> dict:
    "The window is read and profiled, and compared with a stored profile."
    return _compared(lambda: json.loads(Path(known).read_text()), now, int(times))


def _profiled(data: str, times: int = 1, known: dict | None = None) -> dict:
    from mlworkbench.data.profiles import profile_columns

    schema = read_metadata(data).schema.to_arrow_schema()
    of = lambda columns: stream(data, 100_000, times, columns, coded=True)
    return profile_columns(of, schema, known)


def _compared(reference, now: str, times: int) -> dict:
    import datasketches  # noqa: F401
    import pandas  # noqa: F401

    from mlworkbench.core.settings import MonitorSection
    from mlworkbench.monitoring.drift import compare

    began = time.perf_counter()
    then = reference()
    found = compare(then, _profiled(now, times, then), MonitorSection())
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "alarms": sorted(found[found.status.isin(["alarm", "warn"])].feature)}


def estimate(before: str, now: str) -> dict:
    import pandas as pd
    import scipy.optimize
    import scipy.stats  # noqa: F401

    from mlworkbench.monitoring.estimation import Estimator

    told, asked = pd.read_parquet(before), pd.read_parquet(now)
    began = time.perf_counter()
    found = Estimator(told.score.to_numpy(), told.label.to_numpy(), 0.5)(asked.score.to_numpy())
    return {"seconds": time.perf_counter() - began, "auc": found["auc"].value}


if __name__ == "__main__":
    told = {f.__name__: f for f in (contract, profile, drift, window, estimate)}[sys.argv[1]](*sys.argv[2:])
    told["peak_mb"] = peak_mb()
    print(json.dumps(told))
