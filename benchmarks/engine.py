"""How long a run of the eight-step pipeline takes: here, as a loop of bare papermill, in ploomber and in dagstermill.

    make bench-engine            all of it, about 40 minutes
    python benchmarks/engine.py --rounds 1 --peers papermill --sizes 100

All sides do the same work in one run, interleaved; figures are medians of the rounds. Peers get environments of their own under .bench/.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil
from peers import environment, judge

HERE = Path(__file__).parent
MLW = str(Path(sys.executable).with_name("mlw"))
PAPERMILL = str(Path(sys.executable).with_name("papermill"))
USED = ["pandas", "scikit-learn", "matplotlib", "mlflow", "pyarrow", "ipykernel"]  # by the steps
EIGHT = sorted((HERE / "pipelines" / "eight").glob("*.ipynb"))


def timed(command: list[str], cwd: Path, **env: str) -> float:
    "Seconds that the whole process takes. Stops the benchmark if it fails."
    began = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds


def make_project(folder: Path) -> Path:
    (folder / "nbs" / "pipelines").mkdir(parents=True)
    (folder / "settings.ini").write_text("[project]\nname = bench\n")
    shutil.copytree(HERE / "pipelines" / "eight", folder / "nbs" / "pipelines" / "eight")
    return folder


# --- sides ---


def papermill_loop(project: Path) -> float:
    folder = project / "nbs" / "pipelines" / "eight"
    out = project / "papermill.ipynb"
    quiet = ["--no-progress-bar", "-k", "python3"]
    return sum(timed([PAPERMILL, *quiet, path.name, str(out)], folder) for path in EIGHT)


def stop_servers(project: Path) -> None:
    subprocess.run([MLW, "kernels", "stop"], cwd=project, capture_output=True)


def ours(project: Path, *options: str) -> float:
    return timed([MLW, "run", "eight", *options], project)


def cold(project: Path, workers: int) -> float:
    stop_servers(project)
    return ours(project, "--force", "--workers", str(workers))


def touch_last(project: Path, count: int) -> None:
    "Change a line of the last step's code."
    path = project / "nbs" / "pipelines" / "eight" / EIGHT[-1].name
    nb = json.loads(path.read_text())
    nb["cells"][-1]["source"] = [
        f"round_ = {count}\n",
        *[s for s in nb["cells"][-1]["source"] if not s.startswith("round_ =")],
    ]
    path.write_text(json.dumps(nb))


def last_changed(project: Path, count: int) -> float:
    touch_last(project, count)
    return ours(project)


def overheads(project: Path) -> list[float]:
    "For each step of the newest run: its seconds, from being started to being done, less those of its cells."
    events: dict[str, list[float]] = {}
    done = subprocess.run(
        [MLW, "run", "eight", "--force", "--workers", "1", "--log-format", "json"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    at = lambda line: (
        time.mktime(time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S")) + float(line["time"][19:23])
    )
    for line in lines[:-1]:
        events.setdefault(line["step"], []).append(at(line))
    folder, found = Path(lines[-1]["report"]).parent, []
    for step, times in events.items():
        nb = json.loads(next(folder.glob(f"*_{step}.ipynb")).read_text())
        work = sum(
            c["metadata"].get("papermill", {}).get("duration") or 0
            for c in nb["cells"]
            if c["cell_type"] == "code"
        )
        found.append(times[-1] - times[0] - work)
    return found


def many_cached(count: int) -> float:
    "Seconds of a run of `count` steps in ten chains, all cached, each with a result of its own."
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        project = Path(place)
        folder = project / "nbs" / "pipelines" / "chains"
        folder.mkdir(parents=True)
        (project / "settings.ini").write_text("[project]\nname = bench\n[kernels]\npreload = json\n")
        meta = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        for i in range(count):
            own = f"x: Input = 's{i - 10:05d}.x'" if i >= 10 else "x: int = 0"
            head = {
                "cell_type": "code",
                "id": "p",
                "metadata": {"tags": ["parameters"]},
                "source": f"from mlworkbench import Input, save\n{own}",
            }
            work = {"cell_type": "code", "id": "w", "metadata": {}, "source": f"save('x', {i})"}
            cells = [c | {"outputs": [], "execution_count": None} for c in (head, work)]
            (folder / f"{i:05d}_s{i:05d}.ipynb").write_text(
                json.dumps({"cells": cells, "metadata": meta, "nbformat": 4, "nbformat_minor": 5})
            )
        first = timed([MLW, "run", "chains", "--workers", "2"], project)
        print(f"{count} trivial steps, computed: {first:.1f} s", flush=True)
        stop_servers(project)
        return timed([MLW, "run", "chains"], project)


def kernel_memory(project: Path) -> tuple[float, float, float]:
    "Proportional set size in MB of four kernels that imported what a step imports, cold and warm, and of the fork server."
    code = "import matplotlib.pyplot, mlflow, pandas, sklearn.linear_model, time; open('{0}', 'w').close(); time.sleep(600)"

    def pss(processes) -> float:
        return sum(p.memory_full_info().pss for p in processes) / 1e6

    marks = [project / f"mark{i}" for i in range(4)]
    cold_ones = [
        psutil.Popen([sys.executable, "-c", "import ipykernel.kernelapp; " + code.format(m)]) for m in marks
    ]
    wait_for(marks)
    cold_pss = pss(cold_ones)
    for p in cold_ones:
        p.kill()
        p.wait()
    folder = project / "nbs" / "pipelines" / "wide"
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    for i, mark in enumerate(marks):
        mark.unlink()
        cell = {
            "cell_type": "code",
            "id": "w",
            "metadata": {},
            "source": f"# {i}\n{code.format(mark)}",
            "outputs": [],
            "execution_count": None,
        }
        (folder / f"0{i}_s{i}.ipynb").write_text(
            json.dumps({"cells": [cell], "metadata": meta, "nbformat": 4, "nbformat_minor": 5})
        )
    run = subprocess.Popen(
        [MLW, "run", "wide", "--force", "--workers", "4"], cwd=project, stdout=subprocess.DEVNULL
    )
    wait_for(marks)
    ours_ = [
        p
        for p in psutil.process_iter()
        if p.name() in ("mlw-forkserver", "mlw-kernel") and any(str(project) in a for a in p.cmdline())
    ]
    server = pss([p for p in ours_ if p.name() == "mlw-forkserver"])
    warm = [p for p in ours_ if p.name() == "mlw-kernel" and p.cwd() == str(folder)]
    assert len(warm) == 4
    warm_pss = pss(warm)
    run.terminate()
    run.wait()
    return cold_pss, warm_pss, server


def wait_for(marks: list[Path]) -> None:
    while not all(m.exists() for m in marks):
        time.sleep(0.05)


# --- peers ---


def cells_of(path: Path) -> tuple[str, str, str]:
    "Imports, parameters and work of a step, as text."
    cells = {c["id"]: "".join(c["source"]) for c in json.loads(path.read_text())["cells"]}
    return cells["imports"], cells["parameters"], cells["work"]


def own_words(path: Path, read: str, write: str) -> tuple[str, list[str]]:
    "The step's code with reading and writing in the peer's way, and the steps it reads from."
    imports, parameters, work = cells_of(path)
    sources = {}
    for line in parameters.splitlines():
        name, _, value = line.partition(": Input = ")
        if value:
            sources[name] = value.strip('"').partition(".")[0]
    work = work.replace("load(table), load(summary)", "LOAD_table, LOAD_summary").replace(
        "load(table)", "LOAD_table"
    )
    for name, source in sources.items():
        work = work.replace(f"LOAD_{name}", read.format(source))
    before, _, value = work.rpartition('save("table", ')
    work = f"{before}({value[:-1]}).to_parquet({write})"
    work = re.sub(r"^metric\(", "mlflow.log_metric(", work, flags=re.M)
    work = re.sub(
        r"^figure\(.*, (\w+)\)$", r"from IPython.display import display\n\ndisplay(\1)", work, flags=re.M
    )
    head = "\n".join(line for line in imports.splitlines() if "mlworkbench" not in line)
    rows = "rows = 200\n" if "rows: int" in parameters else ""
    return f"{head}\n{rows}{work}", list(sources.values())


def plain_notebook(path: Path, cells: list[tuple[str, list[str]]]) -> None:
    meta = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    made = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {"tags": tags},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for i, (source, tags) in enumerate(cells)
    ]
    path.write_text(json.dumps({"cells": made, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}))


def make_ploomber(folder: Path) -> None:
    folder.mkdir()
    tasks = []
    for path in EIGHT:
        name = path.stem[3:]
        code, needs = own_words(path, "pd.read_parquet(upstream['{}']['data'])", "product['data']")
        plain_notebook(
            folder / path.name, [(f"upstream = {needs or None}\nproduct = None", ["parameters"]), (code, [])]
        )
        tasks.append(
            f"  - source: {path.name}\n    name: {name}\n    product:\n      nb: out/{name}.ipynb\n      data: out/{name}.parquet\n"
        )
    (folder / "pipeline.yaml").write_text("tasks:\n" + "".join(tasks))


def make_plain(folder: Path) -> None:
    "The same work without the workbench: tables in Parquet files, metrics to MLflow."
    folder.mkdir()
    for path in EIGHT:
        out = f"'{folder}/{path.stem[3:]}.parquet'"
        code, _ = own_words(path, f"pd.read_parquet('{folder}/{{}}.parquet')", out)
        plain_notebook(folder / path.name, [(code, [])])


def plain_loop(folder: Path) -> float:
    quiet = ["--no-progress-bar", "-k", "python3"]
    commands = [[PAPERMILL, *quiet, path.name, "out.ipynb"] for path in EIGHT]
    return sum(timed(command, folder, **mlflow_in(folder)) for command in commands)


def mlflow_in(folder: Path) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}


def ploomber(python: Path, folder: Path, force: bool) -> float:
    return timed(
        [str(python.with_name("ploomber")), "build", *["--force"] * force],
        folder,
        PLOOMBER_STATS_ENABLED="false",
        **mlflow_in(folder),
    )


def make_dagster(folder: Path) -> None:
    folder.mkdir()
    assets = []
    for path in EIGHT:
        name = path.stem[3:]
        code, needs = own_words(
            path, f"pd.read_parquet('{folder}/{{}}.parquet')", f"'{folder}/{name}.parquet'"
        )
        plain_notebook(folder / path.name, [("context = None", ["parameters"]), (code, [])])
        assets.append(
            f"a_{name} = define_dagstermill_asset(name='{name}', notebook_path='{folder / path.name}', deps=[{', '.join(repr(n) for n in needs)}])"
        )
    names = ", ".join(f"a_{p.stem[3:]}" for p in EIGHT)
    (folder / "flow.py").write_text(
        "import dagster as dg\nfrom dagstermill import ConfigurableLocalOutputNotebookIOManager, define_dagstermill_asset\n"
        + "\n".join(assets)
        + f"\nprobe = dg.Definitions(assets=[{names}], jobs=[dg.define_asset_job('eight')],"
        " resources={'output_notebook_io_manager': ConfigurableLocalOutputNotebookIOManager()})\n"
    )


def dagster(python: Path, folder: Path) -> float:
    return timed(
        [str(python.with_name("dagster")), "job", "execute", "-f", "flow.py", "-j", "eight"],
        folder,
        DAGSTER_HOME="",
        DAGSTER_DISABLE_TELEMETRY="1",
        **mlflow_in(folder),
    )


# --- the table ---


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="papermill,ploomber,dagstermill")
    parser.add_argument("--sizes", default="100,1000,5000", help="numbers of cached steps")
    args = parser.parse_args()
    peers, seconds = args.peers.split(","), {}
    note = lambda name, value: seconds.setdefault(name, []).append(value)
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        project = make_project(Path(place) / "ours")
        pythons, plain = {}, Path(place) / "plain"
        make_plain(plain)
        if "ploomber" in peers and (python := environment("ploomber", ["ploomber", *USED])):
            pythons["ploomber"] = python
            make_ploomber(Path(place) / "ploomber")
        if "dagstermill" in peers and (
            python := environment("dagstermill", ["dagstermill", "dagster", *USED])
        ):
            pythons["dagstermill"] = python
            make_dagster(Path(place) / "dagster")
        ours(project)  # bare papermill reads the inputs that a run left
        for count in range(args.rounds):
            print(f"round {count + 1} of {args.rounds}", flush=True)
            note("papermill loop", papermill_loop(project))
            note("papermill loop, without the workbench", plain_loop(plain))
            for workers in (1, 2):
                note(f"cold, {workers} worker{'s' * (workers > 1)}", cold(project, workers))
            for workers in (1, 2):
                note(
                    f"warm, {workers} worker{'s' * (workers > 1)}",
                    ours(project, "--force", "--workers", str(workers)),
                )
            note("nothing changed", ours(project))
            note("last step changed", last_changed(project, count))
            if python := pythons.get("ploomber"):
                folder = Path(place) / "ploomber"
                note("ploomber, all", ploomber(python, folder, force=True))
                note("ploomber, nothing changed", ploomber(python, folder, force=False))
            if python := pythons.get("dagstermill"):
                note("dagstermill, all", dagster(python, Path(place) / "dagster"))
        overhead = statistics.median(overheads(project))
        cold_pss, warm_pss, server_pss = kernel_memory(project)
        stop_servers(project)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    loop, plain_seconds = medians["papermill loop"], medians["papermill loop, without the workbench"]
    print(
        f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {date.today()}, {args.rounds} rounds\n"
    )
    print(
        "| what | seconds, median | all rounds | papermill's loop / it | its loop without the workbench / it |"
    )
    print("| --- | ---: | --- | ---: | ---: |")
    for name, value in medians.items():
        rounds = ", ".join(f"{v:.2f}" for v in seconds[name])
        print(f"| {name} | {value:.2f} | {rounds} | {loop / value:.1f} | {plain_seconds / value:.1f} |")
    sizes = {n: many_cached(n) for n in map(int, filter(None, args.sizes.split(",")))}
    for n, value in sizes.items():
        print(f"| {n} cached steps | {value:.2f} | {value / n * 1000:.2f} ms a step | | |")
    print(
        f"\noverhead of a step, median: {overhead:.3f} s; PSS of 4 kernels: cold {cold_pss:.0f} MB, warm {warm_pss:.0f} MB, the fork server {server_pss:.0f} MB\n"
    )
    targets = [
        ("cold, 1 worker, times faster than papermill", loop / medians["cold, 1 worker"], 5, True),
        ("cold, 2 workers", loop / medians["cold, 2 workers"], 8, True),
        ("warm, 1 worker", loop / medians["warm, 1 worker"], 25, True),
        ("warm, 2 workers", loop / medians["warm, 2 workers"], 40, True),
        ("nothing changed, times", loop / medians["nothing changed"], 100, True),
        ("nothing changed, seconds", medians["nothing changed"], 1, False),
        ("last step changed, times", loop / medians["last step changed"], 20, True),
        ("overhead of a step, seconds", overhead, 0.25, False),
        ("warm kernels' memory, share of cold ones'", warm_pss / cold_pss, 0.5, False),
    ]
    if "ploomber, nothing changed" in medians:
        targets.append(
            (
                "nothing changed, times faster than ploomber",
                medians["ploomber, nothing changed"] / medians["nothing changed"],
                12,
                True,
            )
        )
    if 1000 in sizes:
        targets.append(("1,000 cached steps, seconds", sizes[1000], 5, False))
    if 1000 in sizes and 5000 in sizes:
        targets.append(
            ("5,000 cached steps, seconds a step against 1,000", sizes[5000] / sizes[1000] / 5, 1.5, False)
        )
    return judge(targets)


if __name__ == "__main__":
    sys.exit(main())
