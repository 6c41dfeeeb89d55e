"""The flights' champion as a service: asked under load, moved by approvals, killed."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pandas as pd
import psutil
import pytest
from projects import MLW, mlw, until

from mlworkbench.core.errors import TableNotFound
from mlworkbench.core.settings import read_settings
from mlworkbench.data.tables import read_table
from mlworkbench.models.registry import find_version, load_holdout, load_version


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(url, process, log):
    for _ in range(600):
        try:
            return httpx.get(url, timeout=1)
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    raise TimeoutError(url)


@pytest.fixture
def served(flights, start, tmp_path):
    "Starts the service of the flights' champion; its address, rows to ask about, the settings and the model."
    assert mlw(flights, "approve", "flights", "--reason", "good").returncode == 0
    settings = read_settings(flights)
    champion = load_version(settings, find_version(settings, "flights"))
    rows = load_holdout(settings, champion.version)[champion.spec.columns]
    records = [
        {c: None if pd.isna(v) else v for c, v in row.items()} for row in rows.head(50).to_dict("records")
    ]
    url = f"http://127.0.0.1:{free_port()}"

    def _serve(**env):
        log = tmp_path / "serve.log"
        command = (MLW, "serve", "flights", "--port", url.rpartition(":")[2])
        process = start(*command, cwd=flights, log=log, **{"MLW_SERVING_FOLLOW": "0.2"} | env)
        wait_for(f"{url}/ping", process, log)
        return process

    return url, _serve, records, settings, champion.model


def test_no_acknowledged_prediction_is_lost_or_twice_in_the_table(served):
    url, serve, records, settings, _ = served
    rng, acknowledged = random.Random(7), []
    for _ in range(int(os.environ.get("KILLS", "1"))):
        process, stop = serve(), threading.Event()

        def ask(stop=stop):
            with httpx.Client(base_url=url, timeout=5) as client:
                while not stop.is_set():
                    try:
                        answer = client.post("/models/flights/predict", json={"rows": [rng.choice(records)]})
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 200, answer.text
                    acknowledged.append(answer.json()["request_id"])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        [t.start() for t in threads]
        time.sleep(rng.uniform(0.5, 3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        stop.set()
        [t.join() for t in threads]
    last = serve()
    last.send_signal(signal.SIGTERM)
    assert last.wait(60) is not None
    spool = Path(settings.resolve(settings.serving.spool))
    until(lambda: not list(spool.rglob("*.spool")))  # a killed service's mover may be at work still
    found = read_table(settings.resolve(settings.tables.url), "flights_served").request_id
    assert found.is_unique and set(acknowledged) <= set(found) and len(acknowledged) > 50


def test_approvals_under_load_are_followed_without_a_failure(served, flights):
    url, serve, records, _, model = served
    serve()
    assert (
        mlw(flights, "run", "flights", "-p", "ingest.every=40", "-p", "train.iterations=50").returncode == 0
    )
    assert mlw(flights, "approve", "flights", "--reason", "second").returncode == 0
    answers, failures = [], []
    swaps, wanted = int(os.environ.get("SWAPS", "2")), int(os.environ.get("REQUESTS", "1000"))
    swapped = threading.Event()

    def ask():
        with httpx.Client(base_url=url, timeout=10) as client:
            while not swapped.is_set() or len(answers) < wanted:
                answer = client.post("/models/flights/predict", json={"rows": records[:1]})
                told = answer.json()
                if answer.status_code == 200:
                    answers.append((told["version"], told["predictions"][0]))
                else:
                    failures.append(told)
                time.sleep(pause)

    pause = 0 if "SWAPS" in os.environ else 0.01  # a soak is a full load; here other tests want the cores too
    connections = int(os.environ.get("CONNECTIONS", "4"))
    threads = [threading.Thread(target=ask) for _ in range(connections)]
    [t.start() for t in threads]
    for n in range(swaps):
        while len(answers) < wanted * n / swaps:
            time.sleep(0.05)
        if n % 2:
            done = (
                mlw(flights, "request", "flights", "--version", "2"),
                mlw(flights, "approve", "flights", "--reason", "again"),
            )
        else:
            done = (mlw(flights, "rollback", "flights", "--reason", "alarms"),)
        assert all(d.returncode == 0 for d in done), done[-1].stderr
        time.sleep(0.6)
    swapped.set()
    [t.join() for t in threads]
    seen = Counter(version for version, _ in answers)
    assert failures == [] and set(seen) == {1, 2} and len(answers) >= wanted, (failures[:1], seen)
    by_version = {v: {told for version, told in answers if version == v} for v in seen}
    assert all(len(told) == 1 for told in by_version.values())
    asked = pd.DataFrame(records[:1]).astype({"carrier": object})
    assert by_version[1].pop() == pytest.approx(model.predict_proba(asked)[0, 1])


def test_whatever_the_document_allows_is_answered_and_what_it_forbids_is_refused(served, tmp_path):
    url, serve, *_ = served
    process = serve()
    done = subprocess.run(
        [
            str(Path(MLW).with_name("st")), "run", f"{url}/openapi.json", "--no-color", "--max-examples",
            os.environ.get("EXAMPLES", "50"), "--phases", "examples,coverage,fuzzing", "--generation-database", "none",
        ],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert process.poll() is None and "Tested: 2" in done.stdout


KSERVE = """
import asyncio, json, sys
import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, rows = sys.argv[1], json.loads(sys.argv[2])
columns = {name: [row[name] for row in rows] for name in rows[0]}


def inputs(make, binary):
    made = []
    for name, values in columns.items():
        is_text = isinstance(values[0], str)
        made.append(make(name, [len(rows)], "BYTES" if is_text else "FP64"))
        made[-1].set_data_from_numpy(np.array(values, dtype=object if is_text else float), binary_data=binary)
    return made


async def by_kserve():
    client, told = InferenceRESTClient(RESTConfig(protocol="v2")), []
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, "flights")
    for binary in (False, True):
        request = InferRequest(model_name="flights", infer_inputs=inputs(InferInput, binary))
        told.append((await client.infer(url, request, model_name="flights")).outputs[0].data)
    return told


def by_triton():
    client, told = triton.InferenceServerClient(url.removeprefix("http://")), []
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("flights")
    (output,) = client.get_model_metadata("flights")["outputs"]
    for binary in (False, True):
        wanted = triton.InferRequestedOutput(output["name"], binary_data=binary)
        answer = client.infer("flights", inputs(triton.InferInput, binary), outputs=[wanted])
        told.append(answer.as_numpy(output["name"]).tolist())
    return [*told, client.infer("flights", inputs(triton.InferInput, True)).as_numpy(output["name"]).tolist()]


print(json.dumps([*asyncio.run(by_kserve()), *by_triton()]))
"""


@pytest.mark.skipif(
    "KSERVE" not in os.environ, reason="make soak-serving installs KServe's and Triton's clients"
)
def test_kserves_and_tritons_own_clients_are_answered(served):
    from peers import environment

    url, serve, records, *_ = served
    serve()
    rows = [{c: 0.0 if v is None else v for c, v in r.items()} for r in records[:5]]
    python = environment("kserve", ["kserve", "tritonclient[http]"])
    done = subprocess.run(
        [str(python), "-c", KSERVE, url, json.dumps(rows)], check=True, capture_output=True, text=True
    )
    own = httpx.post(f"{url}/models/flights/predict", json={"rows": rows}).json()["predictions"]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 5 and all(one == pytest.approx(own, rel=1e-12) for one in told)


ODD = [
    None, True, "", "AA", "\x00", "\ud83d\ude00", "x" * 5000, -1, 0.0, 1e308, -1e-320, 10**400, 2**63, [], {}, [1], {"a": 1}, [[[[]]]],
]  # fmt: skip


def mutated(rng, records):
    "Path, headers and body of a request that somebody got wrong, or not."
    names, rows = list(records[0]), [dict(rng.choice(records)) for _ in range(rng.choice([1, 1, 2, 5]))]
    row = rng.choice(rows)
    match rng.randrange(6):
        case 0:
            row[rng.choice(names)] = rng.choice(ODD)
        case 1:
            row.pop(rng.choice(names))
        case 2:
            row[rng.choice(["", "more", "rows", "__proto__"])] = rng.choice(ODD)
        case 3:
            rows[rng.randrange(len(rows))] = rng.choice(ODD)
        case 4:
            rows = rng.choice(ODD)
    split = {
        "columns": names,
        "data": [list(r.values()) if isinstance(r, dict) else r for r in rows]
        if type(rows) is list
        else rows,
    }
    tensors = [
        {"name": n, "shape": rng.choice([[1], [len(records)], [1, 1], [-1], [], ["1"]]), "datatype": rng.choice(["FP64", "BYTES", "INT64", "XX", None]), "data": rng.choice([[1.0], ["AA"], [None], ODD, 5])}
        for n in names
    ]  # fmt: skip
    path, told = rng.choice(
        [
            ("/models/flights/predict", {"rows": rows}),
            ("/invocations", {"dataframe_records": rows}),
            ("/invocations", {"dataframe_split": split}),
            ("/invocations", {"instances": rows}),
            ("/invocations", {"inputs": {n: rng.choice([[1], ODD, "x"]) for n in names}}),
            ("/v2/models/flights/infer", {"inputs": tensors}),
        ]
    )
    body = json.dumps(told).encode()
    match rng.randrange(8):
        case 0:
            at = rng.randrange(len(body))
            body = body[:at] + rng.randbytes(rng.choice([1, 3])) + body[at + 1 :]
        case 1:
            body = body[: rng.randrange(len(body))]
        case 2:
            body = body.replace(
                b"null", rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"\\ud800"']), 1
            )
        case 3:
            body = rng.choice(
                [b"[" * 50_000, b'{"a":' * 20_000, b"\xff\xfe" + body, body.decode().encode("utf-16"), b""]
            )
    kinds = ["application/json"] * 6 + ["text/csv", "text/plain", "application/json; charset=latin-1"]
    return path, {"Content-Type": rng.choice(kinds)}, body


def test_mutated_requests_are_answered_or_refused_in_words_and_memory_stays(served):
    url, serve, records, *_ = served
    process, rng = serve(MLW_SERVING_BODY="0.5"), random.Random(11)
    count, seen, memory = int(os.environ.get("MUTATIONS", "1500")), Counter(), []
    with httpx.Client(base_url=url, timeout=20) as client:
        for n in range(count):
            path, headers, body = mutated(rng, records)
            answer = client.post(path, headers=headers, content=body)
            seen[answer.status_code] += 1
            told = answer.json()
            assert answer.status_code == 200 or (
                400 <= answer.status_code < 500 and len(told["error"]) > 10
            ), (
                answer.text,
                body[:500],
            )
            if n % (count // 30) == 0:
                memory.append(psutil.Process(process.pid).memory_info().rss / 1e6)
        assert client.post("/models/flights/predict", content=b" " * 600_000).status_code == 413
        wrong = client.post(
            "/models/flights/predict", json={"rows": [records[0], records[1] | {"distance": "far"}]}
        )
        assert "Row 1, column 'distance'" in wrong.json()["error"] and wrong.json()["row"] == 1
    assert seen[200] > count / 50 and seen[400] > count / 4, seen
    assert max(memory[15:]) < max(memory[5:15]) * 1.05 + 5, memory


def test_on_a_full_disk_the_service_goes_on_says_so_and_recovers(small_disk, served):
    url, serve, records, settings, _ = served
    small = small_disk("1m")
    serve(MLW_SERVING_SPOOL=str(small / "spool"), MLW_TABLES_URL=str(settings.root / "later"))
    with httpx.Client(base_url=url, timeout=10) as client:
        ask = lambda: client.post("/models/flights/predict", json={"rows": records})
        answers = [ask()]
        (small / "filler").write_bytes(b"x" * (shutil.disk_usage(small).free - 20_000))
        answers += [ask() for _ in range(60)]
        assert {a.status_code for a in answers} == {200}
        kept = [a.json()["request_id"] for a in answers if "x-recorded" not in a.headers]
        assert (
            1 < len(kept) < 60
            and answers[-1].headers["x-recorded"] == "no"
            and answers[-1].json()["request_id"] is None
        )
        ready = client.get("/v2/health/ready").json()["models"]["flights"]
        assert "No space left" in ready["problem"] and ready["version"] == 1
        assert 'mlw_stuck{model="flights"} 1.0' in client.get("/metrics").text
        (small / "filler").unlink()
        after = ask()
        assert "x-recorded" not in after.headers
        assert client.get("/v2/health/ready").json()["models"]["flights"]["problem"] is None
        kept.append(after.json()["request_id"])
        tables, deadline = str(settings.root / "later"), time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(TableNotFound):
                if set(read_table(tables, "flights_served").request_id) == set(kept):
                    break
            time.sleep(0.5)
        assert set(read_table(tables, "flights_served").request_id) == set(kept)


def test_the_image_serves_with_a_registry_of_a_team_and_goes_on_without_it(served, start, tmp_path):
    "What the exported Dockerfile would run, beside a real MLflow server that goes away and comes back."
    url, _, records, settings, _ = served
    folder, database = tmp_path / "service", f"sqlite:///{settings.root}/.mlw/mlflow.db"
    assert mlw(settings.root, "export-service", "flights", "--to", str(folder)).returncode == 0
    registry = f"http://127.0.0.1:{free_port()}"
    mlflow = (str(Path(MLW).with_name("mlflow")), "server", "--port", registry.rpartition(":")[2])
    mlflow += (
        "--backend-store-uri",
        database,
        "--workers",
        "1",
        "--default-artifact-root",
        str(tmp_path / "artifacts"),
    )
    log = tmp_path / "mlflow.log"
    server = start(*mlflow, cwd=tmp_path, log=log)
    wait_for(f"{registry}/health", server, log)
    told = {
        line.partition(" ")[0]: line.partition(" ")[2]
        for line in (folder / "Dockerfile").read_text().splitlines()
    }
    command = [*json.loads(told["ENTRYPOINT"]), *json.loads(told["CMD"])]
    assert command[0] == "mlw" and command[command.index("--host") + 1] == "0.0.0.0"
    command[0], command[command.index("--host") + 1] = MLW, "127.0.0.1"
    command[command.index("--port") + 1] = url.rpartition(":")[2]
    env = {"MLW_TRACKING_URI": registry, "KEYS": "test:correct-horse-battery", "MLW_SERVING_FOLLOW": "0.2"}
    env |= {"MLW_SERVING_SPOOL": str(tmp_path / "spool"), "MLW_PROJECT": str(folder)}
    process = start(*command, cwd=folder, log=tmp_path / "image.log", **env)
    wait_for(f"{url}/ping", process, tmp_path / "image.log")
    key = {"X-API-Key": "correct-horse-battery"}
    ask = lambda: httpx.post(f"{url}/models/flights/predict", json={"rows": records[:3]}, headers=key)
    problem = lambda: httpx.get(f"{url}/v2/health/ready").json()["models"]["flights"]["problem"]
    first = ask()
    assert first.status_code == 200 and problem() is None
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    deadline = time.monotonic() + 60
    while problem() is None and time.monotonic() < deadline:
        assert ask().json()["predictions"] == first.json()["predictions"]
        time.sleep(0.1)
    assert problem() and ask().status_code == 200
    server = start(*mlflow, cwd=tmp_path, log=log)
    wait_for(f"{registry}/health", server, log)
    deadline = time.monotonic() + 60
    while problem() is not None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert problem() is None
