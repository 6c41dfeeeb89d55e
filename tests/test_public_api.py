"""What the author of a step notebook may rely on."""

import inspect
import subprocess
import sys
from importlib.metadata import version

import mlworkbench

NAMES = {
    "File": None,
    "Input": None,
    "Table": None,
    "figure": "(name: str, fig) -> None",
    "load": "(ref: str)",
    "metric": "(name: str, value: float) -> float",
    "path": "(file: str) -> pathlib.Path",
    "save": "(name: str, value: object, table: str | None = None) -> str",
}


def test_the_package_offers_these_names_and_no_others():
    assert sorted(NAMES) == sorted(mlworkbench.__all__)
    public = {n for n in dir(mlworkbench) if not n.startswith("_")}
    assert public == set(NAMES)


def test_calls_keep_their_signatures():
    for name, signature in NAMES.items():
        if not isinstance(getattr(mlworkbench, name), type):
            assert str(inspect.signature(getattr(mlworkbench, name))).replace("'", "") == signature


def test_parameter_types_are_texts():
    assert all(issubclass(getattr(mlworkbench, n), str) for n in ("File", "Input", "Table"))


def test_every_name_says_what_it_does():
    assert all(inspect.getdoc(getattr(mlworkbench, n)) for n in NAMES)


def test_the_version_is_that_of_the_installed_distribution():
    assert version("mlworkbench") == mlworkbench.__version__


def test_importing_the_package_loads_nothing_heavy():
    heavy = "('pandas', 'mlflow', 'sklearn', 'papermill', 'pydantic')"
    code = f"import sys, mlworkbench; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
