"""`mlw up` as people meet it: one address, one log-in, and nothing without it."""

import http.client
import socket
import time
from pathlib import Path

import pytest
from projects import MLW, free_port

TOKEN = "of-this-test-77a1"
PLACES = ["/home", "/lab", "/dashboards/monitor", "/mlflow/", "/reports/", "/nbconvert/html/x.ipynb"]
PLACES += [
    "/voila/render/nbs/dashboards/monitor.ipynb",
    "/voila",
    "/files/settings.ini",
    "/proxy/22/",
    "/view/settings.ini",
]
DATA = [
    "/api/contents",
    "/api/kernels",
    "/api/sessions",
    "/api/terminals",
    "/api/config/x",
    "/api/kernelspecs",
    "/lab/api/settings",
]


class Gateway:
    "A client of the server, with or without the token."

    def __init__(self, port: int):
        self.port = port

    def ask(self, path: str, token: str = "", method: str = "GET", **headers: str) -> tuple[int, str, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        told = {"Authorization": f"token {token}"} if token else {}
        connection.request(method, path, headers=told | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        found = answer.status, answer.read().decode(errors="replace"), dict(answer.headers)
        connection.close()
        return found


@pytest.fixture
def gateway(flights, start):
    port = free_port()
    log = flights / "up.log"
    server = start(MLW, "up", "--no-browser", "--port", str(port), cwd=flights, log=log, JUPYTER_TOKEN=TOKEN)
    found = Gateway(port)
    for _ in range(300):
        try:
            if found.ask("/api")[0] == 200:
                break
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
    found.project, found.log = flights, log
    return found


def test_everything_is_at_one_address_and_nothing_without_the_log_in(gateway):
    for path in PLACES:
        status, _, headers = gateway.ask(path)
        assert status == 302 and headers["Location"].startswith("/login?next="), (path, status)
    for path in DATA:
        assert gateway.ask(path)[0] == 403, path
        assert gateway.ask(path, "another")[0] == 403, path
    status, home, _ = gateway.ask("/home", TOKEN)
    assert status == 200 and "version 1" in home and 'href="/dashboards/approvals"' in home
    report = "flights/" + home.split('href="/reports/flights/')[1].split('"')[0]
    status, text, headers = gateway.ask(f"/reports/{report}", TOKEN)
    assert (
        status == 200 and "ingest" in text and "sandbox allow-scripts" in headers["Content-Security-Policy"]
    )
    assert gateway.ask("/lab", TOKEN)[0] == 200 and "MLflow" in gateway.ask("/mlflow/", TOKEN)[1]
    status, _, headers = gateway.ask("/dashboards/monitor", TOKEN)
    assert status == 302 and gateway.ask(headers["Location"], TOKEN)[0] == 200
    assert gateway.ask("/dashboards/nothing", TOKEN)[0] == 404
    status, _, headers = gateway.ask(f"/home?token={TOKEN}")
    assert (status, headers["Location"]) == (302, "/home") and "HttpOnly" in headers["Set-Cookie"]
    assert gateway.ask(f"/home?token={TOKEN}", Host="evil.example")[0] == 403  # which is logged
    gateway.ask("/home")
    said = gateway.log.read_text()
    assert "403 GET /home?token=" in said and TOKEN not in said
    assert said.splitlines()[1] == "Ready."  # after the address, and nothing between


def test_other_hosts_and_paths_out_of_a_folder_are_refused(gateway):
    assert gateway.ask("/home", TOKEN, Host="evil.example")[0] == 403
    for path in ("/reports/..%2fsettings.ini", "/reports/%2e%2e/settings.ini", "/reports//etc/passwd"):
        assert gateway.ask(path, TOKEN)[0] in (403, 404), path
    kernel = gateway.ask(
        "/api/kernels", "", "POST", Origin="http://evil.example", Content_Type="application/json"
    )
    assert kernel[0] in (403, 404) and gateway.ask("/api/kernels", TOKEN)[1] == "[]"


def test_a_project_without_anything_starts_too(home, start):
    (home / "settings.ini").write_text("[project]\nname = bare\n")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        log = Path(home) / "up.log"
        server = start(MLW, "up", "--no-browser", "--port", str(port), cwd=home, log=log)
        assert server.wait(60) != 0 and f"port {port} is not available" in log.read_text()
