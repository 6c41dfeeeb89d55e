"""A version of the flagship is made again elsewhere, carried away, and decided about where a team keeps its log."""

import subprocess
import sys

import pytest
import sqlalchemy as sa
from projects import mlw

SMALL = ("-p", "ingest.every=40")


def git(root, *arguments):
    own = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *own, *arguments], cwd=root, check=True, capture_output=True)


def test_a_version_is_made_again_in_another_folder_and_a_change_is_named(tmp_path):
    assert mlw(tmp_path, "init", "one").returncode == 0
    one, two = tmp_path / "one", tmp_path / "two"
    git(one, "init", "-q")
    git(one, "add", "-A")
    git(one, "commit", "-qm", "first")
    assert mlw(one, "run", "flights", *SMALL).returncode == 0
    git(tmp_path, "clone", "-q", "one", "two")
    shared = f"\n[tracking]\nuri = sqlite:///{one}/.mlw/mlflow.db\nartifacts = {one}/.mlw/artifacts\n"
    (two / "settings.ini").write_text("[project]\nname = two\n" + shared)
    again = mlw(two, "reproduce", "flights", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "flights version 1 is identical" in again.stdout, again.stdout

    train = one / "nbs/pipelines/flights/04_train.ipynb"
    text = train.read_text()
    assert text.count("l2_regularization=1.0") == 1
    train.write_text(text.replace("l2_regularization=1.0", "l2_regularization=2.0"))
    assert mlw(one, "run", "flights", *SMALL).returncode == 0
    other = mlw(two, "reproduce", "flights", "2")
    assert "code (step train)" in other.stdout, other.stdout + other.stderr
    assert other.stdout.count("differs:") == 1 and "output: train.model" in other.stdout


def test_an_exported_model_predicts_in_an_environment_without_the_workbench(flights, tmp_path):
    done = mlw(flights, "export-model", "flights", "1", "--to", str(tmp_path / "edge"))
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    asked = [python, "-m", "pip", "install", "-q", "-r", tmp_path / "edge/requirements.txt"]
    subprocess.run(asked, check=True, capture_output=True)
    check = subprocess.run([python, tmp_path / "edge/predict.py", "--check"], capture_output=True, text=True)
    assert check.returncode == 0 and check.stdout.startswith("20 rows, "), check.stderr
    there = subprocess.run([python, "-c", "import pandas"], capture_output=True)
    assert there.returncode, "the environment must be bare"


def test_decisions_stand_in_postgresql_and_can_not_be_changed(flights, warehouse):
    env = {"MLW_AUDIT_URL": warehouse}
    with (flights / "settings.ini").open("a") as settings:
        settings.write("\n[roles]\nscientist = sam\napprover = ada\n")
    refused = mlw(flights, "approve", "flights", "--reason", "mine", MLW_USER="sam", **env)
    assert refused.returncode == 2 and "sam is scientist" in refused.stderr
    assert mlw(flights, "approve", "flights", "--reason", "good", MLW_USER="ada", **env).returncode == 0
    assert "1 rows, the chain is whole" in mlw(flights, "audit", "verify", **env).stdout
    engine = sa.create_engine(warehouse)
    with engine.begin() as connection:  # an account of the database that may only read
        connection.execute(sa.text("CREATE ROLE reader LOGIN PASSWORD 'only-reads-1'"))
        connection.execute(sa.text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
    url = sa.make_url(warehouse).set(username="reader", password="only-reads-1")
    reader = {"MLW_AUDIT_URL": url.render_as_string(hide_password=False), "MLW_USER": "ada"}
    assert "good" in mlw(flights, "audit", "list", **reader).stdout
    assert "1 rows, the chain is whole" in mlw(flights, "audit", "verify", **reader).stdout
    refused = mlw(flights, "rollback", "flights", "--reason", "mine", **reader)
    assert (
        refused.returncode == 2 and "can't be used" in refused.stderr and "only-reads" not in refused.stderr
    )
    for change in ("UPDATE audit_log SET reason = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(sa.text(change))
    with engine.begin() as connection:  # somebody who owns the database
        connection.execute(sa.text("ALTER TABLE audit_log DISABLE TRIGGER ALL"))
        connection.execute(sa.text("UPDATE audit_log SET reason = 'bribed'"))
    engine.dispose()
    wrong = mlw(flights, "audit", "verify", **env)
    assert wrong.returncode == 2 and "row 1" in wrong.stdout.lower() + wrong.stderr.lower()
