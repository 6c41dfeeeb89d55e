"""`mlw up` for several people: who gets where, and what does not help those who want to get further."""

import asyncio
import datetime as dt
import hmac
import json
import os
import re
import ssl
import subprocess
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
from people import PEOPLE, Person, password
from projects import MLW, free_port, mlw
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.web import create_signed_value
from tornado.websocket import websocket_connect

from mlworkbench.core.settings import read_settings
from mlworkbench.core.signing import held_key
from mlworkbench.governance.audit import read_audit, verify, verify_audit
from mlworkbench.models.registry import find_version
from mlworkbench.pipeline.tracking import mlflow_client


def socket_closed(person: Person, path: str, **more: str) -> bool:
    "Whether the server refuses a websocket there."
    cookie = "; ".join(f"{k}={v}" for k, v in person.cookies.items())

    async def attempt() -> bool:
        request = HTTPRequest(f"ws://127.0.0.1:{person.port}{path}", headers={"Cookie": cookie} | more)
        try:
            (await websocket_connect(request)).close()
        except HTTPClientError as err:
            return err.code in (302, 400, 403, 404, 405)
        return False

    return asyncio.run(attempt())


ROUTES = """
import json, sys
from jupyter_server.serverapp import ServerApp
app = ServerApp(log_level="ERROR")
app.initialize(["--config", sys.argv[1], "--no-browser", "--port", sys.argv[2]])
print("ROUTES" + json.dumps([r.matcher.regex.pattern for r in app.web_app.wildcard_router.rules] +
      [r.matcher.regex.pattern for h in app.web_app.default_router.rules for r in getattr(h.target, "rules", []) if hasattr(r.matcher, "regex")]))
"""


def sample(pattern: str) -> str | None:
    "An address that the route's pattern takes."
    words = lambda found: re.sub(r"\\(.)", r"\1", found[1].split("|")[0])
    pattern = re.sub(
        r"\((?:\?P<\w+>|\?:)?((?:[\w/-]|\\\.)+(?:\|(?:[\w/-]|\\\.)+)*)\)", words, pattern
    )  # groups of plain words
    for group in ("x", "1-2-3-4-5", "12", "a/b", "x.json", "", "/x"):
        path = pattern
        while path != (
            path := re.sub(r"\((\?P<\w+>|\?:)?[^()]*\)[?*+]?", lambda _, group=group: group, path)
        ):
            pass
        path = re.sub(r"\\(.)", r"\1", path.strip("^$")).replace("/?", "/").replace("//", "/")
        if path.startswith("/") and re.fullmatch(pattern.rstrip("$"), path):
            return path
    return None


def test_without_the_log_in_nothing_answers_at_any_route_of_the_server(team, flights):
    nobody = team()["nobody"]
    config = flights / ".mlw" / "up" / "jupyter_server_config.json"
    command = [sys.executable, "-c", ROUTES, str(config), str(free_port())]
    listed = subprocess.run(command, cwd=flights, capture_output=True, text=True)
    assert "ROUTES" in listed.stdout, listed.stderr[-2000:]
    patterns = json.loads(listed.stdout.split("ROUTES")[1])
    paths = {pattern: sample(pattern) for pattern in patterns}
    assert len(patterns) > 80 and [p for p, path in paths.items() if path is None] == []
    for pattern, path in paths.items():
        if path in ("/login", "/logout", "/mlw/decisions"):
            continue
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            nobody.cookies.clear()
            status, text = nobody.ask(method, path)
            to_login = status == 302 and nobody.headers["Location"].startswith("/login?next=")
            refused = status in (403, 405)  # some know no OPTIONS
            assert to_login or refused, (method, pattern, path, status, text[:200])
        assert socket_closed(nobody, path), path
    assert nobody.ask("POST", "/mlw/decisions", {})[0] in (401, 403)
    assert (
        nobody.ask("GET", "/logout")[0] == 302
        and "Log in" in nobody.ask("GET", "/login?next=//evil.example")[1]
    )


OPEN = {
    "viewer": [
        "/home",
        "/reports/",
        "/voila/render/nbs/dashboards/leak.ipynb",
        "/dashboards/monitor",
        "/api/me",
    ],
    "scientist": [
        "/lab",
        "/api/contents",
        "/api/kernels",
        "/api/sessions",
        "/mlflow/",
        "/api/contents/settings.ini",
        "/voila",
    ],
    "admin": ["/settings"],
}


def test_each_role_opens_what_is_its_own_and_no_more(team):
    people = team()
    ranks = ["viewer", "scientist", "approver", "admin"]
    for name, role in PEOPLE.items():
        for needed, paths in OPEN.items():
            for path in paths:
                status, text = people[name].ask("GET", path)
                if ranks.index(role) >= ranks.index(needed):
                    assert status in (200, 302), (name, path, status, text[-300:])
                else:
                    assert status == 403 and f"You are {role}" in text, (name, path, status)
    vera, sam = people["vera"], people["sam"]
    for path in (
        "/voila/render/nbs/pipelines/flights/01_ingest.ipynb",
        "/voila/render/nbs/dashboards/%2e%2e/pipelines/flights/01_ingest.ipynb",
    ):
        assert vera.ask("GET", path)[0] == 403, path
    for method, path in (
        ("POST", "/api/kernels"),
        ("PUT", "/api/contents/x.txt"),
        ("POST", "/api/sessions"),
        ("DELETE", "/api/contents/settings.ini"),
    ):
        assert vera.ask(method, path, {"name": "python3"})[0] == 403, path
    moves = (
        "POST",
        "/mlflow/ajax-api/2.0/mlflow/registered-models/alias",
        {"name": "flights", "alias": "champion", "version": "1"},
    )
    assert sam.ask(*moves)[0] == 403 and people["ada"].ask(*moves)[0] == 403
    for secret in (".mlw/users.json", ".mlw/audit.db", ".mlw/up/cookie_secret"):
        for place in ("api/contents", "files"):
            assert sam.ask("GET", f"/{place}/{secret}")[0] in (403, 404), (place, secret)
    assert sam.ask("GET", "/proxy/22/")[0] == 403 and sam.ask("POST", "/api/shutdown")[0] == 403
    assert sam.ask("GET", "/api/terminals")[0] == 404
    assert "JupyterLab" in sam.ask("GET", "/home")[1] and "JupyterLab" not in vera.ask("GET", "/home")[1]


def test_where_nothing_holds_code_to_the_roles_a_scientist_runs_none(team, flights):
    people = team(code="signed")
    sam, ada = people["sam"], people["ada"]
    said = (flights / "up.log").read_text()
    assert "sam may look and run pipelines here, without JupyterLab" in said and "mlw audit key" in said
    for path in OPEN["scientist"]:
        status, text = sam.ask("GET", path)
        assert status == 403 and "could decide as somebody else" in text, (path, status)
        assert ada.ask("GET", path)[0] in (200, 302), path
    for method, path in (("POST", "/api/kernels"), ("PUT", "/api/contents/nbs/dashboards/home.ipynb")):
        assert sam.ask(method, path, {"name": "python3"})[0] == 403, path
    home = sam.ask("GET", "/home")[1]
    assert "JupyterLab" not in home and "MLflow" not in home and "JupyterLab" in ada.ask("GET", "/home")[1]
    status, text = sam.ask("GET", "/voila/render/nbs/dashboards/pipeline.ipynb")
    assert status == 200 and "must be scientist" not in text  # runs are still his
    mark = flights / "mark.txt"
    _, kernel = sam.page_token()
    assert not run_code(sam, kernel, f"open({str(mark)!r}, 'w').write('x')", 5) and not mark.exists()


SHOWN = {  # dashboard → what everybody sees there
    "home": "in production",
    "approvals": "flights version 1 asks to be the first in production",
    "monitor": "Does the model in production still see",
    "experiments": "register",
    "pipeline": "<svg",
    "data": "flights_features",
}
REFUSED = {  # (dashboard, role) → what they are told
    ("approvals", "viewer"): "one must be approver",
    ("approvals", "scientist"): "one must be approver",
    ("pipeline", "viewer"): "one must be scientist",
}


def test_each_dashboard_for_each_role(team):
    people = team()
    for name, role in PEOPLE.items():
        for dashboard, words in SHOWN.items():
            status, text = people[name].ask("GET", f"/voila/render/nbs/dashboards/{dashboard}.ipynb")
            assert status == 200 and words in text, (name, dashboard, status, text[-2000:])
            told = [refusal for refusal in set(REFUSED.values()) if refusal in text]
            assert told == [r for r in [REFUSED.get((dashboard, role))] if r], (name, dashboard)
            assert (">JupyterLab</a>" in text) == (role != "viewer") and (">Settings</a>" in text) == (
                role == "admin"
            )
    status, text = people["vera"].ask("GET", "/serving")
    assert status == 200 and "No model is in production yet" in text
    assert json.loads(people["vera"].ask("GET", "/serving/openapi.json")[1])["openapi"] == "3.1.0"


def test_the_approvals_service_decides_by_who_asks_and_takes_a_token_once(team, flights):
    people = team()
    nobody, vera, ada = people["nobody"], people["vera"], people["ada"]
    told = {"action": "approve", "model": "flights", "version": 1, "reason": "it is mine"}
    with_token = lambda token, told=told: nobody.ask(
        "POST", "/mlw/decisions", told, Authorization=f"Bearer {token}"
    )

    assert vera.ask("POST", "/mlw/decisions", told)[0] == 403  # the browser's log-in, and no role
    hers, _ = vera.page_token()
    status, text = with_token(hers)  # her page's token, and no role
    assert status == 403 and "vera is viewer" in text
    following = json.loads(text)["token"]
    status, text = with_token(hers)
    assert status == 401 and "used before" in text
    head, claims, signature = following.split(".")
    import base64

    pad = lambda part: part + "=" * (-len(part) % 4)
    forged = json.loads(base64.urlsafe_b64decode(pad(claims))) | {"sub": "ada"}
    claims = base64.urlsafe_b64encode(json.dumps(forged).encode()).rstrip(b"=").decode()
    assert with_token(f"{head}.{claims}.{signature}")[0] == 401
    assert with_token("rubbish")[0] == 401

    token, kernel = ada.page_token()
    assert ada.ask("POST", f"/voila/api/shutdown/{kernel}")[0] == 204
    status, text = with_token(token)
    assert status == 401 and "closed" in text
    token, _ = ada.page_token()
    time.sleep(10)
    status, text = with_token(token)
    assert status == 401 and "expired" in text
    assert read_audit(read_settings(flights)) == []

    assert ada.ask("POST", "/mlw/decisions", told, X_XSRFToken="of another page")[0] == 403
    assert ada.ask("POST", "/mlw/decisions", told, Origin="http://evil.example")[0] in (403, 404)
    token, _ = ada.page_token()
    for body, status in (
        ({"action": "promote"}, 400),
        (told | {"model": "unknown"}, 404),
        (told | {"reason": " "}, 409),
        (told | {"actor": "boss"}, 400),
    ):
        found, text = with_token(token, body)
        assert found == status and "message" in json.loads(text), (body, found, text)
        token = json.loads(text)["token"]
    status, text = with_token(token)
    assert status == 200 and "is champion now" in json.loads(text)["outcome"]
    rows = read_audit(read_settings(flights))
    assert [(r.actor, r.action) for r in rows] == [("ada", "approve")] and verify(rows) == []
    assert mlflow_client(read_settings(flights)).get_registered_model("flights").aliases == {"champion": 1}


def run_code(person: Person, kernel: str, code: str, seconds: float = 8.0) -> bool:
    "Whether a kernel answers that it ran the code that this person's browser sends it."
    cookie = "; ".join(f"{k}={v}" for k, v in person.cookies.items())
    head = {
        "msg_id": uuid.uuid4().hex,
        "username": "x",
        "session": "s",
        "msg_type": "execute_request",
        "version": "5.3",
        "date": "2026-01-01T00:00:00Z",
    }
    message = {
        "header": head,
        "parent_header": {},
        "metadata": {},
        "content": {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
        },
        "channel": "shell",
    }

    async def attempt() -> bool:
        request = HTTPRequest(
            f"ws://127.0.0.1:{person.port}/api/kernels/{kernel}/channels?session_id=s",
            headers={"Cookie": cookie},
        )
        socket = await websocket_connect(request)
        await socket.write_message(json.dumps(message))
        await socket.write_message(json.dumps(message | {"channel": "control"}))
        try:
            while True:
                answer = json.loads(await asyncio.wait_for(socket.read_message(), seconds))
                if answer["msg_type"] == "execute_reply":
                    return answer["content"]["status"] == "ok"
        except TimeoutError:
            return False
        finally:
            socket.close()

    return asyncio.run(attempt())


def test_a_kernel_is_its_owners_and_takes_no_code_from_a_viewer(team, flights):
    people = team()
    vera, sam, ada = people["vera"], people["sam"], people["ada"]
    status, text = sam.ask("POST", "/api/kernels", {"name": "python3"})
    assert status == 201
    his = json.loads(text)["id"]
    mark = flights / "mark.txt"
    assert (
        run_code(sam, his, f"import os; open({str(mark)!r}, 'w').write(os.environ['MLW_USER'])")
        and mark.read_text() == "sam"
    )
    assert not socket_closed(sam, f"/api/kernels/{his}/channels")
    own = f"http://127.0.0.1:{sam.port}"
    assert not socket_closed(sam, f"/api/kernels/{his}/channels", Origin=own)
    for foreign in (
        "https://evil.example",
        "null",
        f"http://127.0.0.1:{sam.port + 1}",
        own + ".evil.example",
    ):
        assert socket_closed(sam, f"/api/kernels/{his}/channels", Origin=foreign), foreign
    for person in (ada, people["boss"], vera):
        assert person.ask("GET", f"/api/kernels/{his}")[0] == 404
        assert socket_closed(person, f"/api/kernels/{his}/channels")
    assert ada.ask("DELETE", f"/api/kernels/{his}")[0] == 404 and ada.ask(
        "POST", f"/api/kernels/{his}/restart"
    )[0] in (404, 500)
    assert ada.ask("GET", "/api/kernels")[1] == "[]" and ada.ask("GET", "/api/sessions")[1] == "[]"
    assert ada.ask("POST", f"/voila/api/shutdown/{his}")[0] == 404
    assert ada.ask("POST", "/api/kernels", {"name": "python3", "kernel_id": his})[0] == 409
    session = {"path": "x.ipynb", "name": "x", "type": "notebook", "kernel": {"id": his, "name": "python3"}}
    assert ada.ask("POST", "/api/sessions", session)[0] >= 400 and ada.ask("GET", "/api/sessions")[1] == "[]"
    assert [k["id"] for k in json.loads(sam.ask("GET", "/api/kernels")[1])] == [his]

    _, hers = vera.page_token()
    mark.unlink()
    assert not run_code(vera, hers, f"open({str(mark)!r}, 'w').write('vera')", 3) and not mark.exists()
    assert "refused: their role may not run code" in (flights / "up.log").read_text()


FORGERY = """
import json, os, subprocess
from mlworkbench.core.settings import AuditSection, read_settings
from mlworkbench.governance.approvals import approve
from mlworkbench.pipeline.tracking import mlflow_client

project, mlw, told = {project!r}, {mlw!r}, {{}}
settings = read_settings(project)
client = mlflow_client(settings)
first = client.get_model_version("flights", "1")
client.create_model_version("flights", first.source, run_id=first.run_id, tags=first.tags)
client.set_registered_model_alias("flights", "challenger", "2")
done = subprocess.run([mlw, "approve", "flights", "--reason", "mine"], cwd=project, env=os.environ | {{"MLW_USER": "ada"}}, capture_output=True, text=True)
told["asked"] = [done.returncode, done.stderr]
done = subprocess.run([mlw, "users", "add", "ada", "--stdin"], input="known to sam 123\\n", cwd=project, env=os.environ | {{"MLW_USER": "boss"}}, capture_output=True, text=True)
told["users"] = [done.returncode, done.stderr]
told["keys"] = [name for name in os.environ if "SIGNING" in name]
past = settings.model_copy(update={{"audit": AuditSection(url=settings.audit.url)}})  # as if there were no key
told["forged"] = approve(past, "flights", "written past the workbench", actor="ada").id
open({mark!r}, "w").write(json.dumps(told))
"""


def forged_cookie(flights: Path, port: int) -> str:
    "A cookie of Ada's for a server whose cookies are signed with what stands in the project."
    users = json.loads((flights / read_settings(flights).gateway.users).read_text())
    value = json.dumps({"username": "ada", "of": users["ada"][-16:]})
    secret = hmac.new(
        (flights / ".mlw/up/cookie_secret").read_bytes(), b"", "sha256"
    ).digest()  # as Jupyter makes it
    return create_signed_value(secret, f"username-127-0-0-1-{port}", value).decode()


def test_where_decisions_are_signed_a_scientists_code_takes_none(team, flights, signing):
    (key,) = held_key().values()
    people = team("[audit]", f"public_key = {signing}", MLW_SIGNING_KEY=key)
    sam, ada = people["sam"], people["ada"]
    told = {"action": "approve", "model": "flights", "version": 1, "reason": "good"}
    status, text = ada.ask("POST", "/mlw/decisions", told)
    assert status == 200 and "version 1 is champion now" in text, text
    settings = read_settings(flights)
    assert find_version(settings, "flights").version == 1 and verify_audit(settings) == []

    mark = flights / "mark.json"
    kernel = json.loads(sam.ask("POST", "/api/kernels", {"name": "python3"})[1])["id"]
    assert sam.ask("GET", "/mlflow/")[0] == 200  # which starts MLflow
    assert run_code(sam, kernel, FORGERY.format(project=str(flights), mlw=str(MLW), mark=str(mark)), 90)
    found = json.loads(mark.read_text())
    assert found["asked"][0] == 2 and "this process has no key to sign with" in found["asked"][1], found
    assert found["keys"] == [] and found["forged"] == 2
    assert found["users"][0] == 2 and "who may log in" in found["users"][1], found
    nobody = people["nobody"]
    nobody.cookies[f"username-127-0-0-1-{sam.port}"] = forged_cookie(flights, sam.port)
    assert nobody.ask("GET", "/home")[0] == 302 and ada.ask("GET", "/home")[0] == 200
    holders = [
        p.info["cmdline"]
        for p in psutil.process_iter(["cmdline", "environ"])
        if key in (p.info["environ"] or {}).values()
    ]
    shown = 1 if os.geteuid() == 0 else 0  # the server closes it to all but root
    assert len(holders) == shown and all("jupyter_server" in h for h in holders), (
        "the server alone has the key"
    )

    score = lambda: mlw(flights, "score", "flights", "--month", "2013-04", MLW_USER="sam")
    scored = score()
    assert scored.returncode == 2 and "no signed decision says so" in scored.stderr
    for page in ("/serving", "/home", "/voila/render/nbs/dashboards/approvals.ipynb"):
        status, text = ada.ask("GET", page)
        assert status == 200 and "Traceback" not in text, page
        assert "no signed decision says so" in text or "moved without a decision" in text, page
    checked = mlw(flights, "audit", "verify")
    assert checked.returncode == 2
    assert (
        "row 2 is a decision that was not signed by the project's key: ada, approve flights 2"
        in checked.stdout
    )
    status, text = ada.ask("POST", "/mlw/decisions", told | {"action": "rollback", "version": None})
    assert status == 200 and "version 1 is champion again" in text, text
    assert find_version(settings, "flights").version == 1
    assert score().returncode == 0
    for file in (p for p in flights.rglob("*") if p.is_file()):
        assert key.encode() not in file.read_bytes(), file


def test_the_kernel_of_a_closed_page_is_gone_within_a_minute(team, flights):
    people = team()
    vera, sam = people["vera"], people["sam"]
    his = json.loads(sam.ask("POST", "/api/kernels", {"name": "python3"})[1])["id"]
    _, hers = vera.page_token()
    began = time.monotonic()
    while vera.ask("GET", f"/api/kernels/{hers}")[0] == 200:
        assert time.monotonic() - began < 60
        time.sleep(2)
    assert sam.ask("GET", f"/api/kernels/{his}")[0] == 200


def test_secrets_are_in_no_log_and_no_file(team, flights):
    people = team()
    tokens = [people[n].page_token()[0] for n in ("vera", "ada")]
    people["ada"].ask("POST", "/mlw/decisions", {"action": "approve", "model": "flights", "reason": "r"})
    stray = Person(people["vera"].port)
    assert stray.log_in("ada", "guess-of-a-stranger") == 401 and stray.ask("GET", "/home")[0] == 302
    for _ in range(5):
        stray.log_in("ada", "guess-of-a-stranger")
    assert stray.log_in("ada") == 429  # even the right one, for a minute
    secrets = [password(n) for n in PEOPLE] + tokens + ["guess-of-a-stranger"]
    cookies = [p.cookies[c] for p in people.values() for c in p.cookies if c.startswith("username")]
    for file in (p for p in flights.rglob("*") if p.is_file()):
        data = file.read_bytes()
        assert [s for s in secrets + cookies if s.encode() in data] == [], file
    login = next(line for line in people["ada"].said if line.startswith("username"))
    assert "HttpOnly" in login and "SameSite=Lax" in login and "Secure" not in login
    assert mlw(flights, "users", "remove", "ada", MLW_USER="boss").returncode == 0
    assert people["ada"].ask("GET", "/home")[0] == 302  # logged out by it
    assert mlw(flights, "users", "list", MLW_USER="vera").stdout.split() == [
        "boss",
        "admin",
        "sam",
        "scientist",
        "vera",
        "viewer",
    ]


def test_a_team_stands_on_postgresql_and_its_password_is_nowhere_to_be_seen(
    team, flights, warehouse, monkeypatch
):
    secret = urlsplit(warehouse).password
    for name in ("MLW_TRACKING_URI", "MLW_AUDIT_URL"):
        monkeypatch.setenv(name, warehouse)
    (flights / ".mlw" / "mlflow.db").unlink()
    done = mlw(flights, "run", "flights", "--force", "-p", "ingest.every=40")
    assert done.returncode == 0, done.stdout + done.stderr
    people = team()
    token, _ = people["ada"].page_token()
    told = {"action": "approve", "model": "flights", "version": 1, "reason": "on PostgreSQL"}
    ask = lambda token: people["nobody"].ask("POST", "/mlw/decisions", told, Authorization=f"Bearer {token}")
    status, text = ask(token)
    assert status == 200 and "version 1 is champion now" in json.loads(text)["outcome"], text
    assert ask(people["vera"].page_token()[0])[0] == 403
    (row,) = read_audit(read_settings(flights))
    assert (row.actor, row.reason) == ("ada", "on PostgreSQL")
    for person, path, words in (
        ("vera", "/home", "version 1"),
        ("vera", "/voila/render/nbs/dashboards/approvals.ipynb", "on PostgreSQL"),
        ("sam", "/mlflow/ajax-api/2.0/mlflow/experiments/search?max_results=9", '"name": "flights"'),
    ):
        status, text = people[person].ask("GET", path)
        assert status == 200 and words in text, (path, text[-500:])
    found = json.loads(people["sam"].ask("GET", "/mlflow/ajax-api/2.0/mlflow/registered-models/search")[1])
    assert [m["name"] for m in found["registered_models"]] == ["flights"]
    assert not (flights / ".mlw" / "mlflow.db").exists() and not (flights / ".mlw" / "audit.db").exists()
    status, text = people["boss"].ask("GET", "/settings")
    assert status == 200 and "mlw:***@127.0.0.1" in text and secret not in text
    for file in (p for p in flights.rglob("*") if p.is_file()):
        assert secret.encode() not in file.read_bytes(), file
    commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert any("mlflow" in c for c in commands) and [c for c in commands if secret in c] == []


def certificate(folder: Path) -> None:
    "cert.pem and key.pem of a host `ml.example`."
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ml.example")]),
    )
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
    )
    made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=2))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("ml.example")]), critical=False).sign(
        key, hashes.SHA256()
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    (folder / "cert.pem").write_bytes(made.public_bytes(form[0]))


def test_with_tls_cookies_are_secure_and_pages_still_reach_the_gateway(team, flights):
    certificate(flights)
    tls = ssl.create_default_context(cafile=flights / "cert.pem")
    tls.check_hostname = False
    people = team("hosts = ml.example", "certificate = cert.pem", "key = key.pem", tls=tls)
    ada = people["ada"]
    assert "Secure" in next(line for line in ada.said if line.startswith("username"))
    assert (
        ada.ask("GET", "/login", Host="ml.example")[0] in (200, 302)
        and ada.ask("GET", "/home", Host="evil.example")[0] == 403
    )
    cells = [
        "from mlworkbench.app.decisions import decide",
        "from mlworkbench.core.settings import read_settings",
    ]
    cells += ["print('SAID' + decide(read_settings(), 'approve', 'flights', 'over tls'))"]
    about = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    cell = nbformat.v4.new_code_cell("\n".join(cells), id="decide")
    nbformat.write(
        nbformat.v4.new_notebook(cells=[cell], metadata=about), flights / "nbs/dashboards/decide.ipynb"
    )
    status, text = ada.ask("GET", "/voila/render/nbs/dashboards/decide.ipynb")
    assert status == 200 and "SAIDflights version 1 is champion now" in text
    assert [r.actor for r in read_audit(read_settings(flights))] == ["ada"]
