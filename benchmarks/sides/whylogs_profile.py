"""whylogs' side: profile a Parquet file in batches. Run in its own environment."""

import json
import sys
import time

import pyarrow.parquet as pq
from memory import peak_mb
from whylogs.core import DatasetProfile


def main(data: str, batch_rows: str) -> None:
    began = time.perf_counter()
    made = DatasetProfile()
    for batch in pq.ParquetFile(data, pre_buffer=False, buffer_size=1 << 16).iter_batches(int(batch_rows)):
        made.track(batch.to_pandas())
    columns = made.view().get_columns()
    mean = columns["x0"].to_summary_dict()["distribution/mean"]
    seconds = time.perf_counter() - began
    peak = peak_mb()
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "columns": len(columns), "mean": mean}))


if __name__ == "__main__":
    main(*sys.argv[1:])
