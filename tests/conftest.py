"""What every test may use: a clean environment, small projects, and processes that end with the test."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).parent.parent
MLW = str(Path(sys.executable).with_name("mlw"))

for name in [n for n in os.environ if n.startswith(("MLW_", "JPY_", "MLFLOW_"))]:
    del os.environ[name]


def mlw(project: Path, *arguments: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess:
    "Run `mlw` in `project` and wait for it."
    return subprocess.run(
        [MLW, *arguments],
        cwd=project,
        env={**os.environ, "COLUMNS": "160", **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def write_step(
    project: Path, name: str, *cells: str, parameters: str | None = "", pipeline: str = "p"
) -> Path:
    "A step notebook of plain code cells; `parameters=None` leaves the tagged cell out."
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    if parameters is not None:
        head = "from mlworkbench import File, Input, Table, figure, load, metric, path, save\n"
        tagged = nbformat.v4.new_code_cell(
            head + parameters, id="parameters", metadata={"tags": ["parameters"]}
        )
        nb.cells.append(tagged)
    nb.cells += [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells, 1)]
    path = project / "nbs" / "pipelines" / pipeline / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def processes_of(project: Path) -> list[psutil.Process]:
    "Living processes that were started for `project`."
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("MLW_PROJECT") == str(project)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    "An empty project."
    (tmp_path / "settings.ini").write_text("[project]\nname = small\n")
    yield tmp_path
    for process in processes_of(tmp_path):
        process.kill()


@pytest.fixture
def start() -> Iterator:
    "Starts processes, each with its children in a group of its own, and ends them with the test."
    started: list[subprocess.Popen] = []

    def _start(*command: str, **options) -> subprocess.Popen:
        started.append(subprocess.Popen(command, start_new_session=True, **options))
        return started[-1]

    yield _start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
