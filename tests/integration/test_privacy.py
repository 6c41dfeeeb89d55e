"""What must not be told is in no report, log, store, or record of a run: passwords anywhere, personal values where people look."""

from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from projects import mlw, write_step

from mlworkbench.core.settings import read_settings
from mlworkbench.data.tables import read_table
from mlworkbench.data.views import feature_view, materialize, online_features, online_state, online_store

PEOPLE = pd.DataFrame({"email": [f"person{i}@example.org" for i in range(50)], "visits": range(50)})
READ = """
from mlworkbench.data.sources import Source, open_source

with open_source(Source(address, query="SELECT * FROM people")) as rows:
    people = rows.read_all().to_pandas()
"""


def holding(folder: Path, text: str) -> list[str]:
    "Files under `folder` with the text in them."
    files = [p for p in folder.rglob("*") if p.is_file()]
    return [str(p.relative_to(folder)) for p in files if text.encode() in p.read_bytes()]


@pytest.fixture
def people(warehouse) -> str:
    engine = sa.create_engine(warehouse)
    PEOPLE.to_sql("people", engine, index=False, if_exists="replace")
    engine.dispose()
    return warehouse


def test_a_password_is_nowhere_in_what_a_run_leaves(project, people, monkeypatch):
    password = sa.make_url(people).password
    where = 'address: str = "env:WAREHOUSE"'
    save = "save('people', people, table='people')\nmetric('rows', len(people))"
    write_step(project, "01_read", READ, save, parameters=where)
    write_step(project, "02_wrong", READ.replace("FROM people", "FROM nowhere"), parameters=where)
    write_step(project, "03_away", READ, parameters='address: str = "env:AWAY"')
    away = people.replace("127.0.0.1", "127.0.0.9")
    run = mlw(project, "run", "p", WAREHOUSE=people, AWAY=away)
    assert run.returncode == 2 and "read  done" in run.stdout, run.stdout + run.stderr
    assert "wrong  failed" in run.stdout and "away  failed" in run.stdout
    assert "nowhere" in run.stderr, "the error itself is told"
    settings = read_settings(project)
    assert len(read_table(settings.resolve(settings.tables.url), "people")) == 50
    added = mlw(
        project,
        "data",
        "add",
        "env:WAREHOUSE",
        "--query",
        "SELECT * FROM people",
        "--name",
        "again",
        WAREHOUSE=people,
    )
    assert added.returncode == 0, added.stderr
    refused = mlw(project, "data", "add", people, "--query", "SELECT 1 AS x", "--name", "direct")
    assert refused.returncode == 2 and "env:NAME" in refused.stderr
    told = [
        run,
        added,
        refused,
        mlw(project, "show", "latest"),
        mlw(project, "data", "log", "again"),
        mlw(project, "doctor"),
    ]
    assert [t for t in told if password in t.stdout + t.stderr] == []
    assert holding(project, password) == []
    assert holding(project, "env:WAREHOUSE"), "the search itself works"


@pytest.mark.parametrize("warm", ["yes", "no"])
def test_personal_values_are_in_no_page_of_a_run(project, people, warm):
    contracts = project / "nbs/contracts"
    contracts.mkdir(parents=True)
    (contracts / "people.yaml").write_text(
        "columns: {email: {type: string, tags: [pii]}, visits: {type: integer}}\n"
    )
    shown = (
        "people",
        "people.email",
        "people.set_index('email').visits",
        "print(people.describe(include='all'))",
    )
    checks = """
from mlworkbench.data.checks import check
from mlworkbench.data.contracts import Contract

rules = {"email": {"type": "string", "matches": "nobody", "tags": ["pii"]}, "visits": {"type": "integer", "max": 3}}
check(people, Contract(columns=rules)).breaches
"""
    save = "save('people', people, table='people')"
    write_step(project, "01_read", READ, *shown, checks, save, parameters='address: str = "env:WAREHOUSE"')
    run = mlw(project, "run", "p", WAREHOUSE=people, MLW_KERNELS_WARM=warm)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "@example.org" not in run.stdout + run.stderr
    assert holding(project / "reports", "@example.org") == []
    (page,) = (p for p in (project / "reports").rglob("*.html") if p.name != "index.html")
    assert page.read_text().count("•••") >= 4 * 5
    notebooks = holding(project / ".mlw/store", '"nbformat"')
    assert notebooks and not set(notebooks) & set(holding(project / ".mlw/store", "@example.org"))
    settings = read_settings(project)
    assert read_table(settings.resolve(settings.tables.url), "people").email[0] == "person0@example.org"
    (contracts / "people.yaml").write_text(
        "columns: {email: {type: string}, visits: {type: integer, tags: [pii]}}\n"
    )
    again = mlw(project, "run", "p", WAREHOUSE=people, MLW_KERNELS_WARM=warm)
    assert "columns tagged pii" in again.stdout, "pages made before the tag are made anew"


@feature_view(entities=["email"], timestamp="at", ttl="9d")
def visits(history):
    "Visits so far."
    return history


def test_features_are_online_in_postgresql(project, warehouse, monkeypatch):
    monkeypatch.setenv("ONLINE", warehouse)
    (project / "settings.ini").write_text("[project]\nname = x\n[features]\nonline = env:ONLINE\n")
    engine, at = online_store(read_settings(project)), pd.Timestamp("2013-01-01", tz="UTC")
    history = PEOPLE.assign(at=at, share=PEOPLE.visits / 3, known=PEOPLE.visits % 2 == 0)
    history["at"] = history["at"].astype("datetime64[us, UTC]")
    assert materialize(engine, visits, {"history": history}, until=at) == 50
    assert materialize(engine, visits, {"history": history}, until=at) == 0
    got = online_features(engine, PEOPLE[["email"]], [visits], now=at + pd.Timedelta("1d"))
    pd.testing.assert_frame_equal(got, history[["visits", "share", "known"]], check_dtype=False)
    assert online_state(engine, visits) == (50, at)
    engine.dispose()
