"""The flagship on a few thousand flights, run once; each test that changes something works on a copy."""

import shutil
from pathlib import Path

import pytest
from projects import mlw

SMALL = ("-p", "ingest.every=40")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    "A new project in which the flagship has run on each 40th flight. Not to be changed."
    folder = tmp_path_factory.mktemp("flights") / "project"
    assert mlw(folder.parent, "init", "project").returncode == 0
    done = mlw(folder, "run", "flights", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "first-run.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def flights(small_run, home) -> Path:
    "A copy of that project."
    return shutil.copytree(small_run, home, dirs_exist_ok=True)
