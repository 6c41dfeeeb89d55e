"""A step's cells run in the step's own process; its notebook must be the one that a kernel of its own would leave."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from projects import make_task

from mlworkbench.core.errors import StepFailed
from mlworkbench.core.settings import Settings
from mlworkbench.core.store import Store, get
from mlworkbench.pipeline.inprocess import PlainApp
from mlworkbench.pipeline.worker import execute_step

CORPUS = {
    "streams": [
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 + 1",
        # ipykernel reads what processes print in a thread of its own, and may be late
        "import os, subprocess, time\nsubprocess.run(['echo', 'from a process'])\nos.write(1, b'raw\\n')\ntime.sleep(1)",
        "import threading\nt = threading.Thread(target=print, args=['from a thread'])\nt.start(); t.join()",
        "print('no newline', end=''); print(' and on'); sys.stdout.write('x')",
        "print('a' * 100_000)",
        "import logging, warnings\nlogging.warning('logged')\nwarnings.warn('warned')",
        "logging.basicConfig(level=logging.DEBUG, force=True)\nlogging.debug('deep')",
        "logging.debug('deeper')",
    ],
    "displays": [
        "from IPython.display import HTML, Markdown, clear_output, display, update_display",
        "h = display(HTML('<b>x</b>'), display_id='q')\nprint('between')\ndisplay({'a': 1})\nupdate_display(HTML('<i>y</i>'), display_id='q')",
        "for i in range(3):\n    clear_output(wait=True)\n    print(i)",
        "print('gone'); clear_output(); print('here')",
        "display(Markdown('# t'), 3, 'text'); update_display(HTML('later'), display_id='q')",
        "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})",
        "class Odd:\n    def _repr_html_(self): return '<u>odd</u>'\n    def __repr__(self): return 'odd'\nOdd()",
        "class Bad:\n    def __repr__(self): raise ValueError('no repr')\nBad()",
    ],
    "figures": [
        "import matplotlib\nmatplotlib.get_backend()",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.title('t')",
        "fig, ax = plt.subplots(figsize=(2, 2))\nax.bar([1, 2], [3, 4])\nplt.show()\nprint('after')",
        "%config InlineBackend.figure_format = 'svg'\nfig",
        "plt.get_fignums()",
    ],
    "magics": [
        "!echo hi",
        "%%bash\necho bash; echo err >&2",
        "files = !echo one\nfiles",
        "%%capture c\nprint(1)",
        "c.stdout, _, __",
        "%env COLOUR=blue",
        "import os\nos.environ['COLOUR'], In[1], len(Out), get_ipython().__class__.__name__, __name__",
        "%cd -q ..\n%pwd",
        "len?",
        "%load_ext autoreload\n%autoreload 2\n%who_ls str",
    ],
    "async": [
        "import asyncio\nawait asyncio.sleep(0.01)\nasyncio.get_running_loop().is_running()",
        "async def f():\n    await asyncio.sleep(0)\n    return 3\n[await f() for _ in range(2)]",
        "asyncio.get_event_loop().is_running()",
        "try:\n    asyncio.run(f())\nexcept RuntimeError as e:\n    print(e)",
        "task = asyncio.create_task(f())",
        "await task",
    ],
    "widgets": [
        "import ipywidgets as w\ns = w.IntSlider(3)\ndisplay(s)\ns.value = 5\ns",
        "o = w.Output()\nwith o:\n    print('inside')\no",
        "len(o.outputs), o.outputs[0]['text']",
        "bar = w.IntProgress(max=3)\ndisplay(bar)\nfor i in range(3):\n    bar.value += 1",
        "w.VBox([w.Label('a'), w.HTML('<b>b</b>')])",
    ],
    "asked": [
        "try:\n    input('x')\nexcept Exception as e:\n    print(type(e).__name__, e)",
        "import getpass\ntry:\n    getpass.getpass()\nexcept Exception as e:\n    print(type(e).__name__)",
        "import sys\n'' in sys.path, sys.stdout.isatty(), sys.stdin.read()",
    ],
    "error": ["x = 1", "def f(n):\n    return n / 0\nprint('before')\nf(x)", "print('never')"],
    "syntax": ["1 +", "2"],
    "chained": ["try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('worse') from e"],
    "interrupt": ["import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)", "1"],
    "interrupted await": [
        "import asyncio, os, signal\nasyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGINT)\nawait asyncio.sleep(5)"
    ],
    "exit": ["import sys\nsys.exit('enough')", "1"],
    "raises-exception": ["#allowed\n1 / 0", "2"],
    "assertion": ["assert 1 == 2, 'not equal'"],
}


def in_kernel(nb: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    client = NotebookClient(
        nb, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    except Exception as err:
        assert type(err).__name__ in ("CellExecutionError",), err
    return nb


def in_process(task: dict, settings: Settings) -> nbformat.NotebookNode:
    try:
        executed = execute_step(task)["notebook"]
    except StepFailed as err:
        executed = err.fields["executed"]
    return read(settings, executed)


def read(settings: Settings, digest: str) -> nbformat.NotebookNode:
    return nbformat.reads(get(Store(settings.resolve(settings.store.url)), digest).decode(), as_version=4)


def normal(nb: nbformat.NotebookNode) -> list:
    "What a reader sees: consecutive pieces of a stream joined, names that differ from run to run made equal."
    text = json.dumps([c for c in nb.cells if c.cell_type == "code"], sort_keys=True)
    names: dict[str, str] = {}
    text = re.sub(r"\b[0-9a-f]{32}\b", lambda m: names.setdefault(m[0], f"id{len(names)}"), text)
    text = re.sub(r"ipykernel_\d+", "ipykernel_N", text)
    cells = []
    for cell in json.loads(text):
        outputs = []
        for o in cell["outputs"]:
            last = outputs[-1] if outputs else {}
            if o["output_type"] == "stream" and last.get("name") == o["name"]:
                last["text"] += o["text"]
            else:
                outputs.append(o)
        for o in outputs:
            if "image/svg+xml" in o.get("data", {}):
                o["data"]["image/svg+xml"] = "drawn"
        cells.append((cell["source"], cell["execution_count"], outputs))
    return cells


@pytest.fixture(scope="module")
def settings(lasting) -> Settings:
    (lasting / "deep").mkdir()
    return Settings(root=lasting, kernels={"preload": "numpy, pandas, matplotlib.pyplot, ipywidgets"})


def test_what_processes_print_is_never_late(settings, monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    shout = "import os, subprocess\nfor i in range(20):\n    os.write(1, ('ä' * 999 + '\\n').encode())\nsubprocess.run(['echo', 'last'])\nNone"
    cells = in_process(make_task(settings, *[shout] * 30, folder="deep"), settings).cells
    for cell in (c for c in cells if c.cell_type == "code" and "subprocess" in c.source):
        text = "".join(o.text for o in cell.outputs)
        assert text.endswith("last\n") and text.count("ä") == 20 * 999 and "\ufffd" not in text


@pytest.mark.parametrize("name", CORPUS)
def test_the_notebook_is_that_of_a_kernel_of_its_own(name, settings, monkeypatch):
    monkeypatch.delenv(
        "PYTEST_CURRENT_TEST"
    )  # ipykernel looks at it, and then leaves what processes print alone
    task = make_task(settings, *CORPUS[name], folder="deep")
    expected = in_kernel(read(settings, task["notebook"]), settings.root / "deep")
    found = in_process(task, settings)
    for a, b in zip(normal(found), normal(expected), strict=True):
        assert a == b
    assert found.metadata.language_info == expected.metadata.get(
        "language_info", found.metadata.language_info
    )
    widgets = [len(nb.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {}))
               for nb in (found, expected)]  # fmt: skip
    assert widgets[0] == widgets[1]


def test_a_forked_kernel_looks_at_no_module(settings):
    ask = "import sys\nfrom ipykernel import ipkernel\n(len(get_ipython().kernel._kernel_modules), ipkernel.sys is sys)"
    cells = in_process(make_task(settings, ask, folder="deep"), settings).cells
    assert "(0, True)" in [o.data["text/plain"] for c in cells for o in c.get("outputs", []) if "data" in o]


@pytest.mark.parametrize("more", [[], ["--HistoryManager.enabled=False"]])
def test_a_kernels_command_line_says_where_it_is_connected_and_all_else(tmp_path, more):
    app = PlainApp()
    app.parse_command_line(["-f", str(tmp_path / "connection.json"), *more])
    assert app.connection_file == str(tmp_path / "connection.json")
    assert app.config.get("HistoryManager", {}).get("enabled", True) is not bool(more)


def test_a_notebook_of_another_kernel_gets_it(settings, tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "other"
    spec.mkdir(parents=True)
    argv = [
        "/usr/bin/env",
        "OTHER=1",
        os.sys.executable,
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Other", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    code = "import os\nos.environ['OTHER'], os.getppid() != 1, os.getcwd()"
    task = make_task(settings, code, kernel="other", folder="deep")
    (output,) = in_process(task, settings).cells[-1].outputs
    assert output.data["text/plain"] == f"('1', True, '{settings.root / 'deep'}')"
