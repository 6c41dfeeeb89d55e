"""Our side of the benchmarks that count memory too: a process of its own for each figure."""

import json
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def peak_mb() -> float:
    "Most memory that this process had, in MB; `ru_maxrss` would count what its parent had when it forked."
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def stream(data: str, batch_rows: int, times: int = 1, columns=None) -> pa.RecordBatchReader:
    file = pq.ParquetFile(data, pre_buffer=False, buffer_size=1 << 16)
    schema = (
        file.schema_arrow if columns is None else pa.schema([file.schema_arrow.field(c) for c in columns])
    )
    batches = (b for _ in range(times) for b in file.iter_batches(batch_rows, columns=columns))
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


if __name__ == "__main__":
    told = {"contract": contract, "profile": profile}[sys.argv[1]](*sys.argv[2:])
    told["peak_mb"] = peak_mb()
    print(json.dumps(told))
