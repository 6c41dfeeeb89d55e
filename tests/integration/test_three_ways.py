"""The same notebook by hand in Jupyter, by bare papermill, and by the pipeline: equal outputs, bit by bit."""

import json
import socket
import sys
import time
import uuid
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import nbformat
import pytest
import scrapbook
import websocket
from projects import MLW, mlw

STEP = "nbs/pipelines/flights/04_train.ipynb"
CHOSEN = {"seed": 1, "iterations": 20}
TOKEN = "a-token-for-this-test"


def refs(path: Path) -> dict[str, str]:
    scraps = scrapbook.read_notebook(str(path)).scraps
    return {n: s.data["ref"] for n, s in scraps.items() if isinstance(s.data, dict)}


class Jupyter:
    "A person at a Jupyter server: opens a notebook, and runs cells."

    def __init__(self, port: int):
        self.address = f"127.0.0.1:{port}"

    def ask(self, path: str, body: dict | None = None, method: str | None = None):
        data = json.dumps(body).encode() if body is not None else None
        head = {"Authorization": f"token {TOKEN}"}
        with urlopen(
            Request(f"http://{self.address}/{path}", data, head, method=method), timeout=30
        ) as answer:
            return json.loads(answer.read() or "null")

    def open(self, notebook: str) -> str:
        body = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
        kernel = self.ask("api/sessions", body)["kernel"]["id"]
        self.socket = websocket.create_connection(
            f"ws://{self.address}/api/kernels/{kernel}/channels?token={TOKEN}", timeout=120
        )
        return kernel

    def run(self, code: str) -> list[dict]:
        "Outputs of a cell. Fails if it raises."
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": "s",
            "username": "u",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": True}
        self.socket.send(
            json.dumps(
                {
                    "header": header,
                    "parent_header": {},
                    "metadata": {},
                    "content": content,
                    "channel": "shell",
                }
            )
        )
        outputs, idle, replied = [], False, False
        while not (idle and replied):
            message = json.loads(self.socket.recv())
            if message["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])
            idle |= message["content"].get("execution_state") == "idle"
            replied |= message["msg_type"] == "execute_reply"
            if message["msg_type"] == "display_data":
                outputs.append(message["content"])
        return outputs


@pytest.fixture
def jupyter(flights, start):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (MLW, "lab", "--no-browser", "--port", str(port))
    server = start(*command, cwd=flights, log=flights / "lab.log", JUPYTER_TOKEN=TOKEN)
    person = Jupyter(port)
    for _ in range(300):
        try:
            person.ask("api/status")
            break
        except (URLError, ConnectionError):
            assert server.poll() is None, (flights / "lab.log").read_text()
            time.sleep(0.2)
    return person


def by_hand(jupyter: Jupyter, notebook: Path) -> dict[str, str]:
    "References of what the notebook saved, with the chosen values typed in under its parameters."
    kernel, found = jupyter.open(STEP), {}
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type != "code":
            continue
        for output in jupyter.run(cell.source):
            scrap = output["data"].get("application/scrapbook.scrap.json+json")
            if scrap and isinstance(scrap["data"], dict):
                found[scrap["name"]] = scrap["data"]["ref"]
        if "parameters" in cell.metadata.get("tags", []):
            jupyter.run("\n".join(f"{k} = {v!r}" for k, v in CHOSEN.items()))
    jupyter.socket.close()
    jupyter.ask(f"api/kernels/{kernel}", method="DELETE")
    return found


def test_the_same_notebook_three_ways_gives_the_same_digests(flights, jupyter, start):
    values = [f"{k}={v}" for k, v in CHOSEN.items()]
    hand = by_hand(jupyter, flights / STEP)

    papermill = str(Path(sys.executable).with_name("papermill"))
    options = [word for value in values for word in ("-p", *value.split("="))]
    bare = start(
        papermill,
        STEP,
        "out.ipynb",
        *options,
        "--no-progress-bar",
        cwd=flights,
        log=flights / "papermill.log",
    )

    assert bare.wait(300) == 0, (flights / "papermill.log").read_text()

    run = ("run", "flights", "--only", "train", "-p", "ingest.every=40")
    done = mlw(flights, *run, *[word for value in values for word in ("-p", f"train.{value}")])
    assert done.returncode == 0, done.stderr
    executed = max((flights / "reports/flights").iterdir()) / "04_train.ipynb"

    assert set(hand) == {"model", "columns", "train"}
    assert hand == refs(flights / "out.ipynb") == refs(executed)
    first = min((flights / "reports/flights").iterdir()) / "04_train.ipynb"
    assert refs(first)["model"] != hand["model"], "other values give another model"


def test_what_is_saved_by_hand_is_what_the_next_notebook_loads(flights, jupyter):
    hand = by_hand(jupyter, flights / STEP)
    jupyter.open("nbs/pipelines/flights/05_evaluate.ipynb")
    jupyter.run("from mlworkbench import load\nfrom mlworkbench.pipeline.step import _newest, context")
    shown = jupyter.run("from IPython.display import display\ndisplay(_newest(context(), 'train.model'))")
    assert shown[0]["data"]["text/plain"].strip("'") == hand["model"]
