"""What every test may use: a clean environment, an empty project, and processes that end with the test."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import processes_of

for name in [n for n in os.environ if n.startswith(("MLW_", "JPY_", "MLFLOW_"))]:
    del os.environ[name]

# Fork servers of the tests keep apart from the user's own, and import little: each test's project has its own.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="mlw-test-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)
os.environ["MLW_KERNELS_PRELOAD"] = "numpy"


@pytest.fixture(autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    for path in Path(os.environ["XDG_RUNTIME_DIR"]).glob("*/*.sock"):
        from mlworkbench.pipeline.kernels import _ask

        about = _ask(path, "status")
        if about:
            os.killpg(about["pid"], signal.SIGKILL)
        path.unlink(missing_ok=True)


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

    def _start(*command: str, cwd: Path, log: Path, **env: str) -> subprocess.Popen:
        options = {"cwd": cwd, "env": os.environ | env, "start_new_session": True}
        with log.open("w") as said:
            started.append(subprocess.Popen(command, stdout=said, stderr=said, **options))
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
