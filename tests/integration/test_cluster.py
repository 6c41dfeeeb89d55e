"""The same pipeline on a Dask cluster of real processes, its store on a real S3 server."""

import functools
import os
import signal
import socket
import sys
import urllib.request

import pandas as pd
import pytest
from projects import mlw, until, write_step

from mlworkbench.core.settings import MonitorSection
from mlworkbench.core.store import Store, list_records, read_record
from mlworkbench.data.profiles import merge, profile
from mlworkbench.data.tables import read_table
from mlworkbench.monitoring.drift import compare
from mlworkbench.pipeline.cluster import connect


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def s3(start, tmp_path, monkeypatch):
    "URL of a folder on an S3 server of our own."
    pytest.importorskip("moto")
    port = free_port()
    start(
        sys.executable,
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
        cwd=tmp_path,
        log=tmp_path / "s3.log",
    )
    address = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)

    def answers():
        try:
            return urllib.request.urlopen(f"{address}/moto-api/", timeout=1).status
        except OSError:
            return False

    until(answers)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # it would still talk to an earlier test's server
    s3fs.S3FileSystem().mkdir("bench")
    return "s3://bench/store"


@pytest.fixture
def cluster(start, tmp_path):
    "Address of a scheduler, and a function that starts a worker."
    place = tmp_path / "elsewhere"
    place.mkdir()
    port = free_port()
    dask = [sys.executable, "-m", "dask"]
    quiet = {"DASK_DISTRIBUTED__DASHBOARD__LINK": "", "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False"}
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    start(*dask, "scheduler", *options, cwd=place, log=tmp_path / "scheduler.log", **quiet)

    def listens() -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    until(listens)

    def worker(name: str, *more: str):
        own = [
            "--name",
            name,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            "--local-directory",
            str(place),
        ]
        return start(
            *dask,
            "worker",
            f"tcp://127.0.0.1:{port}",
            *own,
            *more,
            cwd=place,
            log=tmp_path / f"{name}.log",
            **quiet,
        )

    return f"dask://127.0.0.1:{port}", worker


@pytest.fixture
def steps(project):
    (project / "helper.py").write_text("def double(n):\n    return 2 * n\n")
    (project / "data").mkdir()
    (project / "data" / "rows.txt").write_text("1\n2\n3\n")
    rows = "rows: File = 'data/rows.txt'"
    write_step(
        project, "01_read", "save('rows', [int(x) for x in path(rows).read_text().split()])", parameters=rows
    )
    where = "import os\nsave('where', os.getcwd())"
    write_step(
        project,
        "02_left",
        "from helper import double\nsave('rows', [double(r) for r in load(rows)])",
        where,
        parameters="rows: Input = 'read.rows'",
    )
    write_step(
        project,
        "03_right",
        "save('rows', [r + 1 for r in load(rows)])",
        parameters="rows: Input = 'read.rows'",
    )
    both = "a: Input = 'left.rows'\nb: Input = 'right.rows'"
    write_step(project, "04_join", "metric('total', sum(load(a)) + sum(load(b)))", parameters=both)
    return project


def manifests(store: Store) -> dict[str, dict]:
    found = (read_record(store, "manifests", n) for n in list_records(store, "manifests"))
    return {m["step"]: m for m in found}


def test_a_store_on_s3_serves_a_run_and_its_cache(steps, s3):
    env = {"MLW_STORE_URL": s3}
    first = mlw(steps, "run", "p", **env)
    assert first.returncode == 0, first.stderr
    assert manifests(Store(s3))["join"]["metrics"] == {"total": 21.0}
    assert not (steps / ".mlw" / "store").exists()
    assert "4 cached" in mlw(steps, "run", "p", **env).stdout


def test_two_runs_on_one_s3_store_compute_each_step_once(steps, s3, start, tmp_path):
    write_step(
        steps, "01_read", "import time; time.sleep(2)\nopen('runs', 'a').write('x')\nsave('rows', [1, 2, 3])"
    )
    command = [str(tmp_path), "run", "p"]
    mlw_path = os.path.join(os.path.dirname(sys.executable), "mlw")
    runs = [
        start(mlw_path, *command[1:], cwd=steps, log=tmp_path / f"run{i}.log", MLW_STORE_URL=s3)
        for i in range(2)
    ]
    assert [r.wait(120) for r in runs] == [0, 0], [(tmp_path / f"run{i}.log").read_text() for i in range(2)]
    assert (steps / "nbs/pipelines/p/runs").read_text() == "x"


def test_a_cluster_runs_the_same_pipeline_from_the_store_alone(steps, s3, cluster):
    address, worker = cluster
    worker("one"), worker("two")
    done = mlw(steps, "run", "p", "--engine", address, MLW_STORE_URL=s3)
    assert done.returncode == 0, done.stderr
    found = manifests(Store(s3))
    assert found["join"]["metrics"] == {"total": 21.0}
    here = read_value_of(Store(s3), found["left"]["outputs"]["where"])
    assert not here.startswith(str(steps)), "the step ran in a copy laid out from the store"
    assert "4 cached" in mlw(steps, "run", "p", MLW_STORE_URL=s3).stdout, "one cache for both engines"


def read_value_of(store: Store, output: dict):
    from mlworkbench.pipeline.formats import read_value

    return read_value(store, output["ref"])


def busy_worker(address: str) -> str | None:
    "Name of the worker that has a task."
    from distributed import Client

    with Client(address.replace("dask://", "tcp://"), set_as_default=False) as client:
        names = {a: w["name"] for a, w in client.scheduler_info(n_workers=-1)["workers"].items()}
        return next((names[a] for a, tasks in client.processing().items() if tasks), None)


def test_a_worker_that_is_killed_in_a_step_costs_nothing_but_time(steps, cluster, start, tmp_path):
    address, worker = cluster
    mlw_path = os.path.join(os.path.dirname(sys.executable), "mlw")
    workers = {name: worker(name) for name in ("w0", "w1")}
    for round_ in range(max(1, int(os.environ.get("CHAOS_ROUNDS", "6")) // 10)):
        begun = tmp_path / f"begun{round_}"
        code = f"import time\nopen('{begun}', 'a').write('x')\ntime.sleep(4)\nsave('rows', [1, 2, {round_}])"
        write_step(steps, "01_read", code)
        run = start(mlw_path, "run", "p", "--engine", address, cwd=steps, log=tmp_path / "run.log")
        until(begun.exists)
        os.kill(workers.pop(until(lambda: busy_worker(address))).pid, signal.SIGKILL)
        workers[f"w{round_ + 2}"] = worker(f"w{round_ + 2}")
        assert run.wait(120) == 0, (tmp_path / "run.log").read_text()
        assert begun.read_text() == "xx", "the step was run again elsewhere"


def test_resources_are_those_of_dask(steps, cluster):
    address, worker = cluster
    nb = "03_right"
    write_step(
        steps,
        nb,
        "save('rows', [r + 1 for r in load(rows)])",
        parameters="rows: Input = 'read.rows'",
        options="{resources: {gpu: 1}}",
    )
    worker("plain")
    worker("strong", "--resources", "gpu=1")
    done = mlw(steps, "run", "p", "--engine", address)
    assert done.returncode == 0, done.stderr


def test_what_is_wrong_with_a_cluster_is_said(steps):
    none = mlw(steps, "run", "p", "--engine", f"dask://127.0.0.1:{free_port()}")
    assert none.returncode == 2 and "No Dask scheduler answers at tcp://127.0.0.1" in none.stderr
    unclear = mlw(steps, "run", "p", MLW_ENGINE_ENGINE="dask")
    assert unclear.returncode == 2 and "needs the scheduler's address" in unclear.stderr
    assert "write local, or dask://HOST:PORT" in mlw(steps, "run", "p", "--engine", "spark").stderr


def test_rows_are_scored_by_the_workers_of_a_cluster(cluster, flights):
    address, worker = cluster
    workers = [worker("one"), worker("two")]
    assert mlw(flights, "approve", "flights", "--reason", "good").returncode == 0
    score = lambda out, *more: mlw(
        flights, "score", "flights", "--in", "flights_features", "--out", out, "--batch-size", "3000", *more
    )
    there, here = score("there", "--workers", address), score("here")
    assert there.returncode == here.returncode == 0, there.stderr + here.stderr
    tables = str(flights / ".mlw/tables")
    rows = {
        out: read_table(tables, out).sort_values("flight_id", ignore_index=True) for out in ("there", "here")
    }
    assert rows["there"].flight_id.is_unique and len(rows["there"]) == len(
        read_table(tables, "flights_features")
    )
    assert (rows["there"].prediction - rows["here"].prediction).abs().max() < 1e-12
    workers[0].send_signal(signal.SIGKILL)
    after = score("after", "--workers", address)
    assert after.returncode == 0 and len(read_table(tables, "after")) == len(rows["here"]), after.stderr


def test_profiles_that_workers_make_add_up_to_that_of_all_rows(cluster, flights):
    address, worker = cluster
    for name in ("one", "two"):
        worker(name)
    rows = read_table(str(flights / ".mlw/tables"), "flights_features")
    reference, size = profile(rows[:4000]), len(rows) // 7
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    with connect(address) as client:
        made = client.gather(client.map(functools.partial(profile, reference=reference), parts))
    whole, merged = profile(rows, reference), functools.reduce(merge, made)
    assert merged["rows"] == whole["rows"] and merged["columns"].keys() == whole["columns"].keys()
    for name, column in whole["columns"].items():
        assert merged["columns"][name]["counts"] == column["counts"], name
    limits = MonitorSection()
    pd.testing.assert_frame_equal(compare(reference, merged, limits), compare(reference, whole, limits))
