"""The flights' champion as a service: asked under load, moved by approvals, killed."""

import os
import random
import signal
import socket
import threading
import time
from collections import Counter

import httpx
import pandas as pd
import pytest
from projects import MLW, mlw

from mlworkbench.core.settings import read_settings
from mlworkbench.data.tables import read_table
from mlworkbench.models.registry import find_version, load_holdout, load_version


@pytest.fixture
def served(flights, start, tmp_path):
    "Starts the service of the flights' champion; its client, its process, and rows to ask about."
    assert mlw(flights, "approve", "flights", "--reason", "good").returncode == 0
    settings = read_settings(flights)
    champion = load_version(settings, find_version(settings, "flights"))
    rows = load_holdout(settings, champion.version)[champion.spec.columns]
    records = [
        {c: None if pd.isna(v) else v for c, v in row.items()} for row in rows.head(50).to_dict("records")
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def _serve():
        command = (MLW, "serve", "flights", "--port", str(port))
        process = start(*command, cwd=flights, log=tmp_path / "serve.log", MLW_SERVING_FOLLOW="0.2")
        for _ in range(300):
            try:
                httpx.get(f"http://127.0.0.1:{port}/ping", timeout=1)
                return process
            except httpx.TransportError:
                assert process.poll() is None, (tmp_path / "serve.log").read_text()
                time.sleep(0.1)
        raise TimeoutError

    return f"http://127.0.0.1:{port}", _serve, records, settings, champion.model


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
    time.sleep(1)
    last = serve()
    last.send_signal(signal.SIGTERM)
    assert last.wait(60) is not None
    found = read_table(settings.resolve(settings.tables.url), "flights_served").request_id
    assert found.is_unique and set(acknowledged) <= set(found) and len(acknowledged) > 50


def test_approvals_under_load_are_followed_without_a_failure(served, flights):
    url, serve, records, _, model = served
    serve()
    assert (
        mlw(flights, "run", "flights", "-p", "ingest.every=40", "-p", "train.iterations=50").returncode == 0
    )
    assert mlw(flights, "approve", "flights", "--reason", "second").returncode == 0
    stop, answers, failures = threading.Event(), [], []

    def ask():
        with httpx.Client(base_url=url, timeout=10) as client:
            while not stop.is_set():
                answer = client.post("/models/flights/predict", json={"rows": records[:1]})
                (answers if answer.status_code == 200 else failures).append(answer.json())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    [t.start() for t in threads]
    for n in range(int(os.environ.get("SWAPS", "2"))):
        if n % 2:
            done = (
                mlw(flights, "request", "flights", "--version", "2"),
                mlw(flights, "approve", "flights", "--reason", "again"),
            )
        else:
            done = (mlw(flights, "rollback", "flights", "--reason", "alarms"),)
        assert all(d.returncode == 0 for d in done), done[-1].stderr
        time.sleep(0.6)
    stop.set()
    [t.join() for t in threads]
    seen = Counter(a["version"] for a in answers)
    assert failures == [] and set(seen) == {1, 2}, (failures[:1], seen)
    by_version = {v: {a["predictions"][0] for a in answers if a["version"] == v} for v in seen}
    assert all(len(told) == 1 for told in by_version.values())
    asked = pd.DataFrame(records[:1]).astype({"carrier": object})
    assert by_version[1].pop() == pytest.approx(model.predict_proba(asked)[0, 1])
