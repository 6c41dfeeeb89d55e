"""What every test may use: a clean environment, an empty project, and processes that end with the test."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import projects

for name in [n for n in os.environ if n.startswith(("MLW_", "JPY_", "MLFLOW_"))]:
    del os.environ[name]

# Fork servers of the tests keep apart from the user's own, and import little where one test has its own.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="mlw-test-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)
os.environ["MLW_KERNELS_PRELOAD"] = "numpy"

if count := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # Tests at once share the processors: OpenMP's threads spin while they wait for one that another test keeps from running.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))


HOME = Path(tempfile.mkdtemp(prefix="mlw-home-")).resolve()
atexit.register(shutil.rmtree, HOME, ignore_errors=True)


SHARED = (
    "numpy, pandas, pyarrow, sklearn.ensemble, sklearn.linear_model, mlflow, "
    "mlworkbench.app.page_approvals, mlworkbench.app.page_monitor, mlworkbench.app.page_experiments"
)
KEPT = {HOME}  # projects whose fork servers serve the tests that come


def _stop_servers(but: Collection[Path] = ()) -> None:
    from mlworkbench.pipeline.kernels import _ask

    for path in Path(os.environ["XDG_RUNTIME_DIR"]).glob("*/*.sock"):
        about = _ask(path, "status")
        if about and Path(about["root"]) in but:
            continue
        if about:
            os.killpg(about["pid"], signal.SIGKILL)
        path.unlink(missing_ok=True)


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left_in_the_end() -> Iterator[None]:
    yield
    _stop_servers()


@pytest.fixture(autouse=True)
def _no_server_is_left() -> Iterator[None]:
    "A test's own fork servers end with it, but for those of `home` and `lasting`."
    yield
    _stop_servers(but=KEPT)


def _close_databases() -> None:
    "MLflow keeps connections by a database's path; after a file was deleted they would still show the old one."
    for name in ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"):
        if module := sys.modules.get(name):
            for engine in module.SqlAlchemyStore._engine_map.values():
                engine.dispose()


@pytest.fixture(autouse=True)
def _mlflow_points_nowhere() -> Iterator[None]:
    "Code under test may point MLflow at its project, for this process and those it starts; the next test must not see that."
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        del os.environ[name]


@pytest.fixture
def signing(monkeypatch) -> str:
    "A public key, whose signing key this process holds."
    from mlworkbench.core import signing

    key, public = signing.new_pair()
    monkeypatch.setattr(signing, "_held", {signing.SIGNING_KEY: key})
    monkeypatch.setattr(signing, "_close_memory", lambda: None)  # pytest's own stays open
    return public


@pytest.fixture
def keyless() -> Callable[[], contextlib.AbstractContextManager]:
    "Begins a time in which this process holds no key, as others do."
    from mlworkbench.core import signing

    @contextlib.contextmanager
    def time() -> Iterator[None]:
        held, signing._held = signing._held, {}
        try:
            yield
        finally:
            signing._held = held

    return time


@pytest.fixture
def home(monkeypatch) -> Iterator[Path]:
    "An empty folder, the same one for all tests that take it, so that they find its fork server warm."
    monkeypatch.setenv("MLW_KERNELS_PRELOAD", SHARED)
    yield HOME
    for process in projects.processes_of(HOME):
        process.kill()
    _close_databases()
    for path in HOME.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory) -> Iterator[Path]:
    "An empty folder for all tests of a file, so that they find its fork server warm."
    folder = tmp_path_factory.mktemp("lasting").resolve()
    KEPT.add(folder)
    yield folder
    KEPT.remove(folder)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    "MLflow's database as it makes it, which takes it seconds; with nothing in it."
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
    return path


def _empty_project(folder: Path, database: Path, name: str) -> Path:
    (folder / "settings.ini").write_text(f"[project]\nname = {name}\n")
    (folder / ".mlw").mkdir()
    shutil.copy(database, folder / ".mlw")
    return folder


@pytest.fixture
def project(home, empty_database) -> Path:
    "An empty project."
    return _empty_project(home, empty_database, "small")


@pytest.fixture
def own_project(tmp_path, empty_database, monkeypatch) -> Path:
    "An empty project, which this process works in as a kernel would."
    monkeypatch.setenv("MLW_PROJECT", str(tmp_path))
    return _empty_project(tmp_path, empty_database, "x")


@pytest.fixture
def watched(own_project):
    "A version that has answered 100 rows a day for two months; its feature `a` moves in February."
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    from mlworkbench.core.settings import read_settings
    from mlworkbench.data.profiles import profile
    from mlworkbench.data.tables import write_table
    from mlworkbench.models.registry import ModelSpec, register_model
    from mlworkbench.monitoring.watched import watch_version
    from mlworkbench.serving.batch import score_period

    settings, rows = read_settings(own_project), projects.asked(60, shift=1.5)
    root = settings.resolve(settings.tables.url)
    write_table(root, "rows", rows[["id", "asked", "a", "b", "side"]])
    known = rows.asked + pd.Timedelta("3d")
    write_table(root, "answers", rows[["id", "y"]].assign(known_at=known))
    train, test = rows[:2000], rows[2000:3000]
    model = LogisticRegression().fit(train[["a"]].assign(b=0.0), train.y)
    spec = ModelSpec(
        ["a", "b"], "rows", "answers", "id", "asked", "y", "known_at", {"auc": 0.9}, slices=["side"]
    )
    answers = pd.DataFrame({"probability": model.predict_proba(train[["a", "b"]])[:, 1]})
    columns = train[["a", "b"]]
    register_model(model, "m", spec, columns.head(), profile(columns), profile(answers), holdout=test)
    for month in ("2013-01", "2013-02"):
        score_period(settings, "m", month, which="challenger")
    return watch_version(settings, "m", "challenger")


@pytest.fixture
def told(own_project, monkeypatch) -> Callable[..., tuple[int, str]]:
    "Runs `mlw` in `own_project`, in this process: exit code, and what it says."
    from click.testing import CliRunner

    from mlworkbench.app.cli import main

    monkeypatch.chdir(own_project)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, list(arguments))
        return done.exit_code, done.output

    return run


@pytest.fixture
def make_task() -> Callable[..., dict]:
    return projects.make_task


@pytest.fixture
def gone() -> Callable[..., bool]:
    return projects.gone


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
