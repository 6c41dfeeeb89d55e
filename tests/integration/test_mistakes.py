"""Bad input gets one clear sentence and exit code 2; nothing is half-written and no process is left."""

import os
import signal
import stat
import time

import pytest
from projects import MLW, mlw, processes_of, write_step


def refused(done, *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert all(w in done.stderr for w in words), done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def untouched(project) -> bool:
    return not (project / "reports").exists() and not list((project / ".mlw").glob("store/runs/**/*.json"))


def two_steps(project) -> None:
    write_step(project, "01_ingest", "save('numbers', list(range(n)))", parameters="n: int = 3")
    write_step(project, "02_train", "metric('total', sum(load(x)))", parameters="x: Input = 'ingest.numbers'")


def test_parameters_for_a_notebook_without_a_parameters_cell(project):
    write_step(project, "01_ingest", "1", parameters=None)
    refused(
        mlw(project, "run", "p", "-p", "ingest.n=5"), "01_ingest.ipynb", "'parameters'", "so n can't be set"
    )
    assert untouched(project)


@pytest.mark.parametrize(
    "default, words",
    [
        (
            "'ingets.numbers'",
            ["02_train.ipynb", "'ingets.numbers'", "names no step", "Did you mean 'ingest'"],
        ),
        ("'ingest.nmbers'", ["02_train.ipynb", "no output", "Did you mean 'numbers'"]),
        ("'numbers'", ["02_train.ipynb", "'step.output'"]),
        ("'train.model'", ["wait for each other", "train"]),
    ],
)
def test_inputs_that_lead_nowhere(project, default, words):
    two_steps(project)
    write_step(project, "02_train", "save('model', load(x))", parameters=f"x: Input = {default}")
    refused(mlw(project, "run", "p"), *words)
    assert untouched(project)


def test_a_cycle_names_its_steps(project):
    write_step(project, "01_a", "save('out', load(x))", parameters="x: Input = 'b.out'")
    write_step(project, "02_b", "save('out', load(x))", parameters="x: Input = 'a.out'")
    refused(mlw(project, "run", "p"), "wait for each other", "a", "b")


@pytest.mark.parametrize(
    "option, words",
    [
        ("ingest.n=many", ["ingest", "n", "many", "int"]),
        ("ingest.m=1", ["'m'", "n"]),
        ("ingets.n=1", ["'ingets'", "Did you mean 'ingest'"]),
        ("n=1", ["STEP.NAME=VALUE"]),
        ("train.x=1", ["is an input"]),
    ],
)
def test_wrong_parameters(project, option, words):
    two_steps(project)
    refused(mlw(project, "run", "p", "-p", option), *words)
    assert untouched(project)


def test_a_step_that_raises(project):
    two_steps(project)
    write_step(
        project, "02_train", "y = 1", "save('model', 1 / len([]))", parameters="x: Input = 'ingest.numbers'"
    )
    write_step(project, "03_deploy", "load(m)", parameters="m: Input = 'train.model'")
    done = mlw(project, "run", "p")
    kept = next((project / "reports/p").glob("*/02_train.ipynb"))
    refused(done, "'train'", "'cell-2'", "ZeroDivisionError: division by zero", str(kept))
    assert "ZeroDivisionError" in kept.read_text()
    assert "deploy  not run" in done.stdout and "ingest  done" in done.stdout
    write_step(project, "02_train", "y = 1", "save('model', 1)", parameters="x: Input = 'ingest.numbers'")
    again = mlw(project, "run", "p")
    assert again.returncode == 0 and "ingest  cached" in again.stdout and "deploy  done" in again.stdout


def test_a_kernel_that_dies(project):
    write_step(project, "01_ingest", "import os\nos.kill(os.getpid(), 9)")
    refused(mlw(project, "run", "p"), "'ingest'", "kernel", "01_ingest.ipynb")


@pytest.mark.parametrize("file", ["data/rows.csv", "package://no_such_package/rows.csv"])
def test_a_missing_data_file(project, file):
    write_step(project, "01_ingest", "path(rows)", parameters=f"rows: File = '{file}'")
    refused(mlw(project, "run", "p"), "01_ingest.ipynb", file)
    assert untouched(project)


def test_a_store_that_is_no_folder(project):
    two_steps(project)
    (project / "taken").write_text("a file")
    refused(mlw(project, "run", "p", MLW_STORE_URL="taken"), "taken", "[store]", "url")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written(project):
    two_steps(project)
    (project / "locked").mkdir()
    (project / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    refused(mlw(project, "run", "p", MLW_STORE_URL="locked"), "locked", "[store]")


def test_a_store_on_an_unknown_protocol(project):
    two_steps(project)
    refused(mlw(project, "run", "p", MLW_STORE_URL="nowhere://x"), "nowhere", "[store]", "url")


@pytest.mark.parametrize(
    "command, words",
    [
        ("rnu", ["No such command", "run"]),
        ("run q", ["no pipeline 'q'", "p"]),
        ("run p --only trian", ["no step 'trian'", "train"]),
        ("approve flihgts --reason x", ["no model 'flihgts'"]),
        ("score flights --month 2013-04", ["no model 'flights'"]),
        ("score flights --month April", ["April", "2013-04"]),
        ("monitor flights", ["no model 'flights'"]),
        ("monitor flights --month 13", ["'13'", "2013-04"]),
        ("show 2020", ["no run"]),
        ("approve flights", ["--reason"]),
    ],
)
def test_unknown_things_are_named_with_the_alternatives(project, command, words):
    two_steps(project)
    done = mlw(project, *command.split())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(w.lower() in done.stderr.lower() for w in words), done.stderr


def test_a_bad_setting_is_named(project):
    two_steps(project)
    (project / "settings.ini").write_text("[project]\nname = x\n[monitor]\nnumeric_warn = lots\n")
    refused(mlw(project, "status"), "settings.ini", "[monitor]", "numeric_warn", "lots")


def test_a_broken_notebook_is_named(project):
    two_steps(project)
    (project / "nbs/pipelines/p/02_train.ipynb").write_text("{ not json")
    refused(mlw(project, "run", "p"), "02_train.ipynb")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_keeps_what_finished(project, start, sent):
    two_steps(project)
    (project / "marker").mkdir()
    slow = f"import subprocess, time\nsubprocess.Popen(['sleep', '300'])\nopen({str(project / 'marker' / 'on')!r}, 'w')\ntime.sleep(300)"
    write_step(project, "02_train", slow, parameters="x: Input = 'ingest.numbers'")
    run = start(MLW, "run", "p", cwd=project, log=project / "log", MLW_PROJECT=str(project))
    until = time.monotonic() + 120
    while not (project / "marker/on").exists() and time.monotonic() < until and run.poll() is None:
        time.sleep(0.1)
    assert (project / "marker/on").exists(), (project / "log").read_text()
    run.send_signal(sent)
    assert run.wait(30) == 130
    said = (project / "log").read_text()
    assert "Interrupted" in said and "Traceback" not in said
    until = time.monotonic() + 10
    while processes_of(project) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_of(project) == []
    write_step(project, "02_train", "1", parameters="x: Input = 'ingest.numbers'")
    again = mlw(project, "run", "p")
    assert again.returncode == 0 and "ingest  cached" in again.stdout
