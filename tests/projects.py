"""Small projects for tests, and the command line in them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import psutil

from mlworkbench.core.settings import Settings
from mlworkbench.core.store import Store, put

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).parent.parent
MLW = str(Path(sys.executable).with_name("mlw"))


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
    project: Path,
    name: str,
    *cells: str,
    parameters: str | None = "",
    pipeline: str = "p",
    options: str | None = None,
) -> Path:
    "A step notebook of plain code cells; `parameters=None` leaves the tagged cell out, `options` stand in the front matter."
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    if options:
        nb.cells.append(nbformat.v4.new_raw_cell(f"---\nstep: {options}\n---", id="front"))
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


def make_task(settings: Settings, *sources: str, kernel: str = "python3", **more) -> dict:
    "What a worker must know to run a notebook of these code cells; `#allowed` cells may raise."
    cells = [nbformat.v4.new_code_cell(s, id=f"c{i}") for i, s in enumerate(sources)]
    for cell in cells:
        if cell.source.startswith("#allowed"):
            cell.metadata["tags"] = ["raises-exception"]
    about = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
    data = nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=about)).encode()
    store = Store(settings.resolve(settings.store.url))
    what = {"pipeline": "p", "step": "a", "item": None, "run": "r", "fingerprint": "f" * 64, "parts": {}}
    where = {"file": "01_a.ipynb", "folder": ".", "notebook": put(store, data), "cells": len(cells)}
    told = {"values": {}, "timeout": None, "lineage": {}, "personal": [], "env": {}}
    return what | where | told | {"settings": settings.model_dump(mode="json")} | more


def gone(*pids: int, seconds: float = 10.0) -> bool:
    "Whether all these processes end within that time; a zombie has."
    deadline = time.monotonic() + seconds
    while any(map(_lives, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def until(what: Callable[[], object], seconds: float = 60.0) -> object:
    "What `what` returns as soon as that is true; fails where it is not within that time."
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(project: Path) -> list[psutil.Process]:
    "Living processes that were started for `project`, or work in its folder, as forked ones do."
    found = []
    for process in psutil.process_iter():
        try:
            named = process.environ().get("MLW_PROJECT") == str(project)
            ours = named or Path(process.cwd()).is_relative_to(project)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def free_port() -> int:
    "A port on 127.0.0.1 that nobody listens on."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def asked(days: int, shift: float = 0.0, seed: int = 0) -> "pd.DataFrame":
    "A hundred rows a day from the beginning of 2013, shifted from February on."
    import numpy as np
    import pandas as pd

    rng, n = np.random.default_rng(seed), days * 100
    moments = pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(np.arange(n) * 864, unit="s")
    rows = pd.DataFrame(
        {"id": np.arange(n), "asked": moments.as_unit("us"), "a": rng.normal(size=n), "b": rng.normal(size=n)}
    )
    late = rows.asked >= pd.Timestamp("2013-02-01", tz="UTC")
    rows["a"] += shift * late
    rows["side"] = np.where(rows.id % 2, "east", "west")
    rows["y"] = (rng.random(n) < 1 / (1 + np.exp(-2 * rows.a))).astype(int)
    return rows
