"""The engine as its user meets it: at the command line."""

import json
import os
import signal
import subprocess
import time

import pandas as pd
import pytest
from projects import MLW, mlw, write_step

from mlworkbench.core.settings import read_settings
from mlworkbench.data.tables import write_table
from mlworkbench.pipeline.tracking import mlflow_client


@pytest.fixture
def steps(project):
    write_step(project, "01_read", "save('n', 3)")
    write_step(
        project,
        "02_train",
        "x = load(n)",
        "metric('half', x / by)",
        parameters="n: Input = 'read.n'\nby: float = 2",
    )
    return project


def test_json_lines_tell_what_happens(steps):
    done = mlw(steps, "run", "p", "--log-format", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(x["step"], x["state"]) for x in lines if x.get("state") == "done" and "step" in x] == [
        ("read", "done"),
        ("train", "done"),
    ]
    assert lines[-1]["state"] == "done" and lines[-1]["errors"] == {} and all("time" in x for x in lines)
    failed = mlw(steps, "run", "p", "-p", "train.by=0", "--log-format", "json")
    assert (
        failed.returncode == 2
        and "ZeroDivisionError" in json.loads(failed.stdout.splitlines()[-1])["errors"]["train"]
    )


def test_the_fork_server_is_shown_and_stopped(steps):
    mlw(steps, "kernels", "stop")
    assert "no fork server runs" in mlw(steps, "kernels", "status").stdout
    mlw(steps, "run", "p")
    shown = mlw(steps, "kernels", "status").stdout
    assert "in use" in shown and "numpy" in shown
    assert "a fork server runs, process" in mlw(steps, "doctor").stdout
    assert mlw(steps, "kernels", "stop").stdout == "Stopped 1 fork server.\n"
    assert mlw(steps, "kernels", "stop").stdout == "There was none.\n"


def test_a_planned_run_is_run_step_by_step_without_the_project(steps, tmp_path):
    run = mlw(steps, "run", "p", "--plan", "-p", "train.by=4").stdout.strip()
    store = steps / ".mlw" / "store"
    elsewhere = tmp_path / "container"
    elsewhere.mkdir()
    early = mlw(elsewhere, "step", "p/train", "--run", run, "--store", str(store))
    assert early.returncode == 2 and f"First: mlw step p/read --run {run}" in early.stderr
    for name in ("read", "train"):
        done = mlw(elsewhere, "step", f"p/{name}", "--run", run, "--store", str(store))
        assert done.returncode == 0 and done.stdout.startswith(f"{name}  done"), done.stderr
    shown = mlw(steps, "show", run).stdout
    assert "done" in shown.splitlines()[0] and "0.7500" in shown
    assert "must have the form PIPELINE/STEP" in mlw(steps, "step", "train", "--run", run).stderr


def test_a_failed_step_is_opened_in_the_console(steps):
    failed = mlw(steps, "run", "p", "-p", "train.by=0")
    assert "mlw debug train" in failed.stdout
    command = [MLW, "debug", "train", "--console"]
    done = subprocess.run(
        command, cwd=steps, input="print('x is', x, by)\nexit\n", capture_output=True, text=True, timeout=120
    )
    assert "x is 3 0.0" in done.stdout and "ZeroDivisionError" in done.stdout
    none = mlw(steps, "debug", "read")
    assert none.returncode == 2 and "has not failed" in none.stderr


def test_a_run_that_was_killed_is_shown_as_such(steps):
    write_step(steps, "01_read", "import time\nopen('begun', 'w')\ntime.sleep(60)\nsave('n', 3)")
    run = subprocess.Popen([MLW, "run", "p"], cwd=steps, stdout=subprocess.DEVNULL)
    begun = steps / "nbs/pipelines/p/begun"
    while not begun.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert "interrupted" in mlw(steps, "runs").stdout


def test_the_number_of_workers_is_checked(steps):
    assert mlw(steps, "run", "p", "--workers", "0").returncode == 2
    assert mlw(steps, "run", "p", "--workers", "3").returncode == 0


def test_the_version_of_a_table_that_was_read_is_told_to_mlflow_and_the_report(project):
    settings = read_settings(project)
    root = settings.resolve(settings.tables.url)
    for n in (2, 3):
        version = write_table(root, "fares", pd.DataFrame({"x": range(n)}))
    write_step(project, "01_count", "save('n', len(load(t)))", parameters="t: Table = 'fares@0'")
    write_step(project, "02_newest", "save('n', len(load(t)))", parameters="t: Table = 'fares'")
    assert mlw(project, "run", "p").returncode == 0
    record = json.loads(next((project / ".mlw/store/runs").rglob("*.json")).read_text())
    client = mlflow_client(settings)
    query = f"tags.mlflow.parentRunId = '{record['mlflow_run']}'"
    children = client.search_runs([record["mlflow"][0]], query)
    read = {
        child.info.run_name: [(i.dataset.name, i.dataset.source) for i in child.inputs.dataset_inputs]
        for child in children
    }
    assert read == {s: [("fares", f'{{"table": "fares@{v}"}}')] for s, v in (("count", 0), ("newest", 1))}
    newest = next(c for c in children if c.info.run_name == "newest").inputs.dataset_inputs[0].dataset
    assert version.digest.startswith(newest.digest)
    index = next((project / "reports/p").glob("*/index.html")).read_text()
    assert "Tables read" in index and "fares@0" in index and "fares@1" in index
    write_table(root, "fares", pd.DataFrame({"x": range(9)}))
    again = mlw(project, "run", "p").stdout
    assert "count  cached" in again and "newest  done" in again
