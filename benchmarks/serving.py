"""How fast a model is served: here, by `mlflow models serve`, and by the least that could answer at all.

    make bench-serving           about 20 minutes

The flights' champion and a logistic regression on the same columns, asked over HTTP on 127.0.0.1 by a bounded load from a process of its own
(benchmarks/load.py): one row over one connection, one row over 16, 100 rows over 4. All servers are up, and take turns in each round; figures are
medians of the rounds. Ours records every prediction before it answers. "bare" is uvicorn with a function that decodes the same JSON and calls the
same ONNX graph, and neither checks nor records anything. BentoML serves the same scikit-learn model from an environment of its own.

Then rows are scored in batches from one table into another, beside the model on arrays that are in memory already, by whichever is quicker, its ONNX
graph or scikit-learn; and the memory of `mlw score` with 1 and with 20 million rows.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import numpy as np
from peers import environment, judge

HERE = Path(__file__).parent
MLW = str(Path(sys.executable).with_name("mlw"))
LOADS = [
    ("one row, 1 connection", 1, 1),
    ("one row, 16 connections", 1, 16),
    ("100 rows, 4 connections", 100, 4),
]

BARE = """
import sys
import numpy as np, onnxruntime, orjson, uvicorn
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
numbers, categories = orjson.loads(session.get_modelmeta().custom_metadata_map["mlworkbench"])["numbers"], orjson.loads(session.get_modelmeta().custom_metadata_map["mlworkbench"])["categories"]

async def app(scope, receive, send):
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    rows = orjson.loads(body)["rows"]
    feed = {"numbers": np.array([[r[c] for c in numbers] for r in rows], dtype=float)}
    if categories:
        feed["categories"] = np.array([[r[c] or "" for c in categories] for r in rows], dtype=object)
    told = orjson.dumps({"predictions": session.run(None, feed)[0][:, 1].tolist()})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]})
    await send({"type": "http.response.body", "body": told})

uvicorn.run(app, port=int(sys.argv[2]), loop="uvloop", http="httptools", log_level="error", access_log=False, lifespan="off")
"""


def prepare(root: Path, every: int) -> list[dict]:
    "A project with two champions, `flights` and `logistic`; rows to ask about."
    import joblib
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    (root / "settings.ini").write_text("[project]\nname = serving\n")
    for folder in ("nbs/pipelines/flights", "nbs/contracts"):
        shutil.copytree(HERE.parent / folder, root / folder)
    run = lambda *a: subprocess.run([MLW, *a], cwd=root, check=True, capture_output=True)
    run("run", "flights", "-p", f"ingest.every={every}")
    run("approve", "flights", "--reason", "benchmark")
    os.environ["MLW_PROJECT"] = str(root)
    from mlworkbench.core.settings import read_settings
    from mlworkbench.governance.approvals import approve
    from mlworkbench.models.registry import find_version, load_holdout, load_version, register_model

    settings = read_settings(root)
    champion = load_version(settings, find_version(settings, "flights"))
    rows, columns = load_holdout(settings, champion.version), champion.spec.columns
    texts = [c for c in columns if rows[c].dtype.kind not in "iuf"]
    prepared = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), [c for c in columns if c not in texts]),
        (OneHotEncoder(handle_unknown="ignore"), texts),
    )
    model = make_pipeline(prepared, LogisticRegression(max_iter=500)).fit(rows[columns], rows.late)
    register_model(
        model,
        "logistic",
        champion.spec,
        rows[columns].head(),
        champion.features,
        champion.predictions,
        holdout=rows,
    )
    approve(settings, "logistic", "benchmark")
    for name, fitted in (("flights", champion.model), ("logistic", model)):
        joblib.dump({"model": fitted, "columns": columns, "texts": texts}, root / f"{name}.joblib")
    asked = rows[columns].head(100)
    return [{c: None if v != v else v for c, v in row.items()} for row in asked.to_dict("records")]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(port: int, path: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert process.poll() is None, "a server ended"
            time.sleep(0.2)
    raise TimeoutError(path)


def start(root: Path, processes: list[subprocess.Popen]) -> dict[tuple[str, str], tuple[int, str]]:
    "Port and path of each side for each model; what runs there joins the processes."
    sides = {}
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    )  # MLflow calls uvicorn
    exact = [f"{d}=={version(d)}" for d in ("scikit-learn", "pandas", "numpy", "joblib")]
    bento = environment("bentoml", ["bentoml", *exact])

    def spawn(command: list[str], page: str, **env: str) -> int:
        port = free_port()
        told = [part.replace("PORT", str(port)) for part in command]
        log = (root / f"server-{port}.log").open("w")
        processes.append(
            subprocess.Popen(
                told,
                cwd=root,
                stdout=log,
                stderr=log,
                env=os.environ | {"PATH": path} | env,
                start_new_session=True,
            )
        )
        wait_for(port, page, processes[-1])
        return port

    ours = spawn([MLW, "serve", "flights", "logistic", "--port", "PORT"], "/ping")
    durable = spawn(
        [MLW, "serve", "flights", "logistic", "--port", "PORT"], "/ping", MLW_SERVING_DURABILITY="fsync"
    )
    uri = f"sqlite:///{root}/.mlw/mlflow.db"
    for model in ("flights", "logistic"):
        sides["ours", model] = (ours, f"/models/{model}/predict")
        sides["ours, fsync", model] = (durable, f"/models/{model}/predict")
        folder = root / f"{model}-onnx"
        subprocess.run(
            [MLW, "export-model", model, "--to", str(folder)], cwd=root, check=True, capture_output=True
        )
        sides["bare", model] = (
            spawn([sys.executable, "-c", BARE, str(folder / "model.onnx"), "PORT"], "/"),
            "/",
        )
        serve = [
            str(Path(sys.executable).with_name("mlflow")),
            "models",
            "serve",
            "-m",
            f"models:/{model}@champion",
            "-p",
            "PORT",
            "--env-manager",
            "local",
        ]
        sides["mlflow", model] = (
            spawn(serve, "/ping", MLFLOW_TRACKING_URI=uri, MLFLOW_REGISTRY_URI=uri),
            "/invocations",
        )
        if bento:
            serve = [
                str(bento.with_name("bentoml")),
                "serve",
                "bento:Rows",
                "--working-dir",
                str(HERE / "sides"),
            ]
            told = {
                "MODEL": str(root / f"{model}.joblib"),
                "BENTOML_DO_NOT_TRACK": "True",
                "BENTOML_HOME": str(root),
            }
            port = spawn([*serve, "--host", "127.0.0.1", "--port", "PORT"], "/readyz", **told)
            sides["bentoml", model] = (port, "/predict")
    return sides


def load(port: int, path: str, body: Path, connections: int, seconds: float) -> dict:
    "What the load saw."
    command = [
        sys.executable,
        str(HERE / "load.py"),
        str(port),
        path,
        str(body),
        str(connections),
        str(seconds),
    ]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert not told["failures"], told["first"]
    times = np.array(told["seconds"])
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return {"rate": told["requests"] / told["wall"], "p50": p50 * 1000, "p99": p99 * 1000}


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--seconds", type=float, default=4.0, help="of each load")
    ask.add_argument("--every", type=int, default=4, help="keep each n-th flight")
    ask.add_argument("--many", type=int, default=20_000_000, help="rows of the large table")
    options = ask.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = prepare(root, options.every)
        bodies = {}
        for count in {count for _, count, _ in LOADS}:
            for kind, told in (
                ("own", {"rows": rows[:count]}),
                ("mlflow", {"dataframe_records": rows[:count]}),
            ):
                bodies[kind, count] = root / f"{kind}-{count}.json"
                bodies[kind, count].write_text(json.dumps(told))
        processes: list[subprocess.Popen] = []
        try:
            found = measure(start(root, processes), bodies, options)
        finally:
            for process in processes:
                os.killpg(process.pid, 15)
            for process in processes:
                process.wait(60)
        targets = report(found) + batches(root, options)
    return judge(targets)


def batches(root: Path, options) -> list[tuple]:
    "Rows a second of a scoring beside the model alone, and its memory."
    import pyarrow as pa

    from mlworkbench.core.settings import read_settings
    from mlworkbench.data.tables import read_table, write_table
    from mlworkbench.models.registry import load_version
    from mlworkbench.serving.batch import score_rows
    from mlworkbench.serving.predictor import open_predictor

    settings = read_settings(root)
    tables = settings.resolve(settings.tables.url)
    features = pa.Table.from_pandas(read_table(tables, "flights_features"), preserve_index=False)

    def grow(name: str, rows: int) -> None:
        pieces = (features.slice(0, rows - at) for at in range(0, rows, len(features)))
        stream = (batch for piece in pieces for batch in piece.to_batches(50_000))
        write_table(tables, name, pa.RecordBatchReader.from_batches(features.schema, stream))

    grow("million", 1_000_000)
    grow("many", options.many)
    print("\n| model | rows | side | rows/s |\n| --- | ---: | --- | ---: |")
    targets = []
    for model in ("flights", "logistic"):
        predictor = open_predictor(settings, model, threads=os.cpu_count() or 1)
        frame = read_table(tables, "million", columns=predictor.loaded.spec.columns)
        whole = load_version(settings, predictor.loaded.version).model
        feed, runs = predictor.columns.feed(frame), {}
        alone = {
            "alone, ONNX": lambda feed=feed, p=predictor: p.session.run(None, feed),
            "alone, scikit-learn": lambda frame=frame, p=whole: p.predict_proba(frame),
        }
        for round_ in range(options.rounds):
            ours = lambda model=model, round_=round_: score_rows(
                settings, model, "million", f"{model}_scored_{round_}"
            )
            sides = [*alone.items(), ("ours, table to table", ours)]
            for side, work in sides[round_ % 3 :] + sides[: round_ % 3]:
                began = time.perf_counter()
                work()
                runs.setdefault(side, []).append(1_000_000 / (time.perf_counter() - began))
        rates = {side: statistics.median(told) for side, told in runs.items()}
        for side, rate in rates.items():
            print(f"| {model} | 1,000,000 | {side} | {rate:,.0f} |")
        best = max(rate for side, rate in rates.items() if side in alone)
        targets.append(
            (
                f"{model}, batch: share of the model's rows a second",
                rates["ours, table to table"] / best,
                0.8,
                True,
            )
        )
    peaks = [peak(root, table) for table in ("million", "many")]
    print(
        f"\nPeak memory of mlw score, logistic: 1,000,000 rows {peaks[0]:,.0f} MB, {options.many:,} rows {peaks[1]:,.0f} MB"
    )
    return [*targets, ("batch, memory of 20 times the rows, share", peaks[1] / peaks[0], 1.1, False)]


PEAK = """
import re, sys
from mlworkbench.app.cli import main
main(sys.argv[1:], standalone_mode=False)
print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def peak(root: Path, table: str) -> float:
    "MB of a process that scores the table, at most, as it says itself: what wait4 tells includes the process that started it."
    command = [sys.executable, "-c", PEAK, "score", "logistic", "--in", table, "--out", f"{table}_peak"]
    told = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return int(told.rpartition("peak ")[2]) / 1024


def measure(sides, bodies, options) -> dict:
    "(side, model, load) → median of each figure."
    runs: dict[tuple, list[dict]] = {}
    for round_ in range(options.rounds):
        turn = list(sides.items())
        for (side, model), (port, path) in turn[round_ % len(turn) :] + turn[: round_ % len(turn)]:
            for name, count, connections in LOADS:
                body = bodies["mlflow" if side == "mlflow" else "own", count]
                load(port, path, body, connections, 0.5)  # warm
                runs.setdefault((side, model, name), []).append(
                    load(port, path, body, connections, options.seconds)
                )
    return {key: {n: statistics.median(r[n] for r in told) for n in told[0]} for key, told in runs.items()}


def report(found: dict) -> list[tuple]:
    "Print the table; the targets."
    print(
        "\n| model | load | side | requests/s | p50, ms | p99, ms |\n| --- | --- | --- | ---: | ---: | ---: |"
    )
    for (side, model, name), told in sorted(found.items(), key=lambda f: (f[0][1], f[0][2], f[0][0])):
        print(f"| {model} | {name} | {side} | {told['rate']:,.0f} | {told['p50']:.3f} | {told['p99']:.3f} |")
    print()
    targets = []
    for model in ("flights", "logistic"):
        one, many, hundred = (name for name, _, _ in LOADS)
        of = lambda side, name, model=model: found[side, model, name]
        targets += [
            (
                f"{model}, one row: times quicker than MLflow",
                of("mlflow", one)["p50"] / of("ours", one)["p50"],
                40,
                True,
            ),
            (
                f"{model}, 16 connections: times MLflow's throughput",
                of("ours", many)["rate"] / of("mlflow", many)["rate"],
                60,
                True,
            ),
            (
                f"{model}, 16 connections: times shorter p99",
                of("mlflow", many)["p99"] / of("ours", many)["p99"],
                15,
                True,
            ),
            (
                f"{model}, 100 rows: times MLflow's throughput",
                of("ours", hundred)["rate"] / of("mlflow", hundred)["rate"],
                10,
                True,
            ),
            (
                f"{model}, 16 connections: share of the bare server's throughput",
                of("ours", many)["rate"] / of("bare", many)["rate"],
                0.6,
                True,
            ),
        ]
    return targets


if __name__ == "__main__":
    raise SystemExit(main())
