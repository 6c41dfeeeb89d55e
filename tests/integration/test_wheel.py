"""The wheel carries all that a user without the repository needs."""

import os
import subprocess
import sys
import zipfile

from projects import ROOT


def test_a_wheel_makes_a_project_with_the_stock_notebooks(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        file.extractall(tmp_path / "site")
    for stock in (
        "pipelines/flights/04_train.ipynb",
        "contracts/flights.yaml",
        "dashboards/monitor.ipynb",
    ):
        assert names.count(f"mlworkbench/stock/{stock}") == 1
    assert not [n for n in names if ".mlw/" in n or n.startswith(("tests/", "reports/"))]
    code = "import mlworkbench, sys; from mlworkbench.app.cli import main; print(mlworkbench.__file__); main(['init', 'new'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert (tmp_path / "new/nbs/pipelines/flights/04_train.ipynb").exists()
    assert (tmp_path / "new/nbs/dashboards/approvals.ipynb").exists()
    assert (tmp_path / "new/settings.ini").exists()
