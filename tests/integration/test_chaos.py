"""Kills at random instants: nothing that had finished is lost, nothing damaged is served, nothing is left running.

`make test` does a few rounds of each; `make chaos` (CHAOS_ROUNDS=100) the long form. The seed is printed with a failure.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from projects import MLW, mlw, write_step

from mlworkbench.core.store import Store, list_records, read_record, verify
from mlworkbench.pipeline.formats import contents

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "6"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))


@pytest.fixture
def steps(project, monkeypatch) -> Path:
    "Six steps, two branches; each keeps a table of its own and a child process for a while."
    monkeypatch.setenv("MLW_KERNELS_PRELOAD", "numpy")  # a server that was killed is soon back
    pause = "import subprocess\nsubprocess.run(['sleep', '0.1'])"
    write_step(project, "01_read", pause, "save('n', seed)", parameters="seed: int = 0")
    write_step(project, "02_a", pause, "save('n', load(n) + 1)", parameters="n: Input = 'read.n'")
    write_step(project, "03_b", pause, "save('n', load(n) + 2)", parameters="n: Input = 'read.n'")
    write_step(project, "04_c", pause, "save('n', load(n) * 3)", parameters="n: Input = 'a.n'")
    write_step(project, "05_d", pause, "save('n', load(n) * 5)", parameters="n: Input = 'b.n'")
    write_step(
        project, "06_end", "save('n', load(c) + load(d))", parameters="c: Input = 'c.n'\nd: Input = 'd.n'"
    )
    assert mlw(project, "run", "p").returncode == 0  # the fork server is warm from now on
    return project


def manifests(store: Store) -> dict[str, dict]:
    found = {n: read_record(store, "manifests", n) for n in list_records(store, "manifests")}
    return {n: m for n, m in found.items() if m}


def is_whole(store: Store, manifest: dict) -> bool:
    refs = [o["ref"] for o in manifest["outputs"].values()]
    return verify(store, manifest["notebook"]) and all(
        verify(store, d) for r in refs for d in contents(store, r)
    )


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def of_project(project: Path) -> list[psutil.Process]:
    "Processes of the project's fork server and its children; the server has the project's folder in its command line."
    return [
        p
        for p in psutil.process_iter()
        if any("forkserver.py" in a for a in cmdline(p)) and any(str(project) in a for a in cmdline(p))
    ]


def split(project: Path) -> tuple[list[psutil.Process], list[psutil.Process]]:
    "The project's fork servers, and the kernels that they forked."
    both = of_project(project)
    kernels = [p for p in both if p.name() == "mlw-kernel"]
    return [p for p in both if p.name() == "mlw-forkserver"], kernels


def kill(process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def strike(project: Path, run: subprocess.Popen, what: str) -> None:
    try:
        found, kernels = split(project)
        targets = {"scheduler": [run], "kernel": kernels, "server": found}[what]
        for process in targets[:1]:
            kill(process)
    except (psutil.Error, ProcessLookupError):
        pass


def none_left(project: Path, seconds: float = 8.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if not split(project)[1]:
                return True
        except (psutil.Error, ProcessLookupError):
            continue
        time.sleep(0.05)
    return False


def test_kills_at_random_instants_lose_nothing(steps):
    store, dice, seen = Store(steps / ".mlw/store"), random.Random(SEED), []
    for round_ in range(ROUNDS):
        seed, what = str(round_ + 1), dice.choice(["scheduler", "kernel", "server"])
        env = os.environ | {"COLUMNS": "160"}
        command = [MLW, "run", "p", "-p", f"read.seed={seed}"]
        run = subprocess.Popen(
            command, cwd=steps, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(dice.uniform(0.2, 2.5))
        strike(steps, run, what)
        run.wait(60)
        place = f"seed {SEED}, round {round_}, killed: {what}"
        before = manifests(store)
        assert all(is_whole(store, m) for m in before.values()), place
        assert none_left(steps), f"{place}: {split(steps)[1]}"
        again = mlw(steps, "run", "p", "-p", f"read.seed={seed}")
        assert again.returncode == 0, f"{place}: {again.stderr}"
        after = manifests(store)
        assert all(after[n] == m for n, m in before.items()), f"{place}: a finished step was computed again"
        record = json.loads(
            max((steps / ".mlw/store/runs/p").glob("*.json"), key=os.path.getmtime).read_text()
        )
        end = next(m for m in after.values() if m["fingerprint"] == record["steps"]["end"]["fingerprint"])
        n = int(seed)
        assert (
            json.loads(Path(store.blob_path(end["outputs"]["n"]["ref"][8:72])).read_bytes())
            == (n + 1) * 3 + (n + 2) * 5
        ), place
        seen.append(what)
    print(f"{ROUNDS} kills ({', '.join(f'{seen.count(w)} {w}' for w in sorted(set(seen)))}), seed {SEED}")


def test_runs_at_the_same_time_share_the_work(steps):
    store = Store(steps / ".mlw/store")
    for round_ in range(max(2, ROUNDS // 5)):
        before, seed = set(manifests(store)), f"read.seed={1000 + round_}"
        command = [MLW, "run", "p", "-p", seed, "--log-format", "json"]
        runs = [
            subprocess.Popen(command, cwd=steps, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [r.communicate(timeout=120) for r in runs]
        assert [r.returncode for r in runs] == [0, 0], said
        events = [json.loads(line) for out, _ in said for line in out.splitlines()]
        done = [e["step"] for e in events if e.get("state") == "done" and "step" in e]
        assert sorted(done) == sorted({m["step"] for n, m in manifests(store).items() if n not in before}), (
            "each step once"
        )
    assert none_left(steps)


def test_a_full_disk_is_said_and_the_next_run_goes_on(small_disk, steps):
    small = small_disk("3m")
    env = {"MLW_STORE_URL": str(small / "store")}
    assert mlw(steps, "run", "p", "--only", "a", **env).returncode == 0
    filler = small / "filler"
    with pytest.raises(OSError), filler.open("wb") as f:
        while True:
            f.write(b"x" * 65536)
    full = mlw(steps, "run", "p", **env)
    assert full.returncode == 2 and "can't be written" in full.stderr and "Traceback" not in full.stderr, (
        full.stderr
    )
    assert none_left(steps)
    filler.unlink()
    store = Store(small / "store")
    assert all(is_whole(store, m) for m in manifests(store).values())
    well = mlw(steps, "run", "p", **env)
    assert well.returncode == 0 and "2 cached" in well.stdout, well.stdout + well.stderr
