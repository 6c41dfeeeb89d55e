"""What a newcomer does with the flagship, from the first run to the first month that is watched."""

import json
import re

import pytest
from projects import mlw
from mlflow import MlflowClient
from mlflow.models import Model

STEPS = ["ingest", "validate", "features", "train", "evaluate", "register"]
SMALL = ("-p", "ingest.every=40")


def states(text: str) -> dict[str, str]:
    "The last state that the output gives for each step."
    return dict(re.findall(rf"^({'|'.join(STEPS)})  (done|cached|failed|not run)", text, re.M))


def client(project) -> MlflowClient:
    uri = f"sqlite:///{project}/.mlw/mlflow.db"
    return MlflowClient(uri, uri)


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_the_first_run_does_everything_and_says_what_came_out(small_run):
    said = (small_run / "first-run.txt").read_text()
    assert states(said) == dict.fromkeys(STEPS, "done")
    for word in (
        "auc",
        "average_precision",
        "log_loss",
        "brier",
        "baseline",
        "flights version 1",
        "mlw approve",
    ):
        assert word in said
    report = next((small_run / "reports/flights").glob("*/index.html"))
    page = report.read_text()
    assert all(step in page for step in STEPS) and "<svg" in page
    assert {p.name for p in report.parent.glob("0*.html")} >= {"01_ingest.html", "06_register.html"}


def test_nothing_changed_nothing_runs(flights):
    again = mlw(flights, "run", "flights", *SMALL)
    assert again.returncode == 0 and states(again.stdout) == dict.fromkeys(STEPS, "cached")


def test_a_changed_line_in_train_runs_train_and_what_follows(flights):
    edit(flights / "nbs/pipelines/flights/04_train.ipynb", "min_samples_leaf=100", "min_samples_leaf=120")
    again = mlw(flights, "run", "flights", *SMALL)
    expected = dict.fromkeys(STEPS[:3], "cached") | dict.fromkeys(STEPS[3:], "done")
    assert again.returncode == 0 and states(again.stdout) == expected
    assert "flights version 2" in again.stdout
    compared = mlw(
        flights, "diff", *reversed([p.name for p in sorted((flights / "reports/flights").iterdir())])
    )
    assert compared.returncode == 0 and "train" in compared.stdout and "auc" in compared.stdout


def test_the_model_carries_what_is_needed_to_judge_it(small_run):
    mlflow = client(small_run)
    version = mlflow.get_model_version_by_alias("flights", "challenger")
    assert set(json.loads(version.tags["mlw.fingerprints"])) == set(STEPS)
    assert {"flights", "weather", "planes"} <= set(json.loads(version.tags["mlw.tables"]))
    loaded = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    info = Model.load(loaded.artifact_location.removeprefix("file://"))
    assert info.signature is not None and info.saved_input_example_info
    parents = mlflow.search_runs([e.experiment_id for e in mlflow.search_experiments()])
    children = [r for r in parents if "mlflow.parentRunId" in r.data.tags]
    assert len(children) == len(STEPS) and len(parents) == len(STEPS) + 1
    assert any("auc" in r.data.metrics for r in children)


def test_from_approval_to_a_watched_month(flights):
    early = mlw(flights, "score", "flights", "--month", "2013-04")
    assert early.returncode == 2 and "champion" in early.stderr and "approve" in early.stderr
    approved = mlw(flights, "approve", "flights", "--reason", "better than the baseline", MLW_USER="ada")
    assert approved.returncode == 0 and "champion now" in approved.stdout and "by ada" in approved.stdout
    assert client(flights).get_model_version_by_alias("flights", "champion").version == 1
    again = mlw(flights, "approve", "flights", "--reason", "twice")
    assert again.returncode == 2 and "waits" in again.stderr
    scored = mlw(flights, "score", "flights", "--month", "2013-04")
    assert scored.returncode == 0, scored.stderr
    watched = mlw(flights, "monitor", "flights", "--month", "2013-04")
    assert watched.returncode == 0 and "2013-04" in watched.stdout, watched.stderr
    page = (flights / "reports/monitor/flights/2013-04/index.html").read_text()
    assert "How far each feature has moved from the training profile" in page and "<img" in page
    assert "champion" in mlw(flights, "status").stdout


def test_a_rejected_challenger_leaves_the_champion(flights):
    mlw(flights, "approve", "flights", "--reason", "first")
    mlw(flights, "run", "flights", *SMALL, "-p", "train.iterations=20")
    rejected = mlw(flights, "reject", "flights", "--reason", "worse")
    assert rejected.returncode == 0 and "version 2 was turned down" in rejected.stdout
    assert client(flights).get_model_version_by_alias("flights", "champion").version == 1


@pytest.mark.parametrize("command", ["status", "runs", "doctor", "graph", "gc --dry-run", "show latest"])
def test_looking_around_works(small_run, command):
    done = mlw(small_run, *command.split())
    assert done.returncode == 0 and done.stdout.strip() and "Traceback" not in done.stderr, done.stderr


def test_the_graph_as_a_picture(flights):
    assert mlw(flights, "graph", "--svg", "dag.svg").returncode == 0
    assert (flights / "dag.svg").read_text().startswith("<svg")


def test_rows_that_break_the_contract_stop_the_run_before_features(flights):
    contract = flights / "nbs/contracts/flights.yaml"
    text = contract.read_text()
    contract.write_text(re.sub(r"(distance:.*?max: )[\d.]+", r"\g<1>100", text, flags=re.S))
    assert contract.read_text() != text
    done = mlw(flights, "run", "flights", *SMALL)
    assert done.returncode == 2
    expected = {"ingest": "cached", "validate": "failed"} | dict.fromkeys(STEPS[2:], "not run")
    assert states(done.stdout) == expected and "distance" in done.stderr
