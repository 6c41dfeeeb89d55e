"""Log-in by an OpenID Connect provider, and by a JupyterHub: real ones, in front of a real `mlw up`."""

import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import nbformat
import psutil
import pytest
from oidc_provider_mock import User, run_server_in_thread
from projects import MLW, free_port, mlw

from mlworkbench.core.settings import read_settings
from mlworkbench.core.signing import new_pair
from mlworkbench.governance.audit import is_row_signed, read_audit, verify_audit

SECRET = "client-secret-4711"
CLAIMS = {
    "ada": {"email": "ada@example.org", "email_verified": True},
    "vera": {"email": "vera@example.org", "email_verified": True},
    "liar": {"email": "ada@example.org", "email_verified": False},
    "odd": {"email": "ada@example.org\n", "email_verified": True},
    "mute": {},
}


def until_it_answers(url, process, log):
    for _ in range(400):
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    raise TimeoutError(log.read_text()[-3000:])


SHOWN = "nbs/dashboards/shown.ipynb"


def show_environment(project: Path, *names: str) -> None:
    "Make a dashboard that says whether its kernel has these variables."
    code = f"import os\nprint('KNOWN', os.environ['MLW_USER'], *(f'{{n}}={{n in os.environ}}' for n in {names!r}))"
    about = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(code, id="show")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), project / SHOWN)


@pytest.fixture
def company(flights, start):
    "Address of `mlw up`, whose people an OpenID Connect provider knows; the provider's; the log."
    with run_server_in_thread(user_claims=[User(sub=s, claims=c) for s, c in CLAIMS.items()]) as provider:
        issuer, port, log = f"http://localhost:{provider.server_port}", free_port(), flights / "up.log"
        gateway = f"oidc = {issuer}\noidc_client = workbench\noidc_secret = env:OIDC_SECRET\n"
        with (flights / "settings.ini").open("a") as told:
            told.write(
                f"\n[roles]\nadmin = boss@example.org\napprover = ada@example.org\n\n[gateway]\n{gateway}"
            )
        up = (MLW, "up", "--no-browser", "--port", str(port))
        show_environment(flights, "OIDC_SECRET", "NO_SECRET")
        process = start(*up, cwd=flights, log=log, OIDC_SECRET=SECRET, NO_SECRET="x")
        until_it_answers(f"http://127.0.0.1:{port}/login", process, log)
        yield f"http://127.0.0.1:{port}", issuer, log


def come_back(client: httpx.Client, url: str, who: str, wanted: str = "/home") -> httpx.Response:
    "What the workbench says when the provider sends the browser back; not followed."
    away = client.get(f"{url}/oauth/begin", params={"next": wanted}).headers["location"]
    told = client.post(away, data={"sub": who})
    return client.get(told.headers["location"])


def test_people_come_by_an_openid_connect_provider(company):
    url, issuer, log = company
    with httpx.Client(timeout=60) as client:
        page = client.get(f"{url}/home", follow_redirects=True)
        assert page.url.path == "/login" and f"Log in with {urlsplit(issuer).netloc}" in page.text
        assert 'type="password"' not in page.text
        back = come_back(client, url, "ada", "/dashboards/approvals")
        assert (back.status_code, back.headers.get("location")) == (302, "/dashboards/approvals"), back.text[
            -700:
        ]
        cookies = back.headers.get_list("set-cookie")
        assert any("HttpOnly" in c and "SameSite=Lax" in c for c in cookies if c.startswith("username-"))
        home = client.get(f"{url}/home").text
        assert "ada@example.org, approver" in home and "/settings" not in home
        assert client.get(f"{url}/settings").status_code == 403
        client.get(f"{url}/logout")
        assert client.get(f"{url}/home").status_code == 302
    with httpx.Client(timeout=60) as client:
        come_back(client, url, "vera")
        assert "vera@example.org, viewer" in client.get(f"{url}/home").text
        assert client.get(f"{url}/lab").status_code == 403
    with httpx.Client(timeout=60) as client:
        come_back(client, url, "ada")
        page = client.get(f"{url}/voila/render/{SHOWN}").text
        assert "KNOWN ada@example.org OIDC_SECRET=False NO_SECRET=True" in page
    told = log.read_text()
    assert SECRET not in told and not re.search(r"code=(?!\[secret\])\w", told)


def test_who_is_not_whom_they_seem_does_not_come(company):
    url, _, log = company
    for who, said in (("liar", "has not verified"), ("odd", "be a name here"), ("mute", "does not tell")):
        with httpx.Client(timeout=60) as client:
            back = come_back(client, url, who)
            assert back.status_code == 403 and said in back.text, back.text[-500:]
            assert client.get(f"{url}/home").status_code == 302
    told = log.read_text()
    assert "403 GET /oauth_callback" in told and not re.search(r"code=(?!\[secret\])\w", told)
    with httpx.Client(timeout=60) as client, httpx.Client(timeout=60) as victim:
        away = client.get(f"{url}/oauth/begin").headers["location"]
        asked = parse_qs(urlsplit(away).query)
        assert asked["code_challenge_method"] == ["S256"] and asked["nonce"] and asked["state"]
        mine = client.post(away, data={"sub": "ada"}).headers["location"]
        assert (
            "not begun in this browser" in victim.get(mine).text
        )  # somebody else's log-in, slipped to a victim
        victim.get(f"{url}/oauth/begin")
        assert "not begun in this browser" in victim.get(mine).text
        assert client.get(mine).status_code == 302
        assert "not begun in this browser" in client.get(mine).text  # once more
        assert client.get(f"{url}/oauth_callback?error=access_denied").status_code == 403
    with httpx.Client(timeout=60) as client:
        client.get(f"{url}/oauth/begin")
        state = re.search(r"state=([\w-]+)", client.get(f"{url}/oauth/begin").headers["location"])[1]
        refused = client.get(
            f"{url}/oauth_callback", params={"state": state, "error": "<script>alert(1)</script>"}
        )
        assert refused.status_code == 403 and "<script>alert" not in refused.text
        back = come_back(client, url, "ada", "https://evil.example.org/")
        assert back.headers["location"] == "/"
        signed = client.cookies
        forged = {
            name: value.replace("|", "|1", 1)
            for name, value in signed.items()
            if name.startswith("username-")
        }
        assert forged and httpx.get(f"{url}/home", cookies=forged).status_code == 302


@pytest.fixture
def hub(flights, start):
    "Address of a JupyterHub with the workbench as its service."
    if not shutil.which("configurable-http-proxy", path=str(Path(MLW).parent)):
        pytest.skip("configurable-http-proxy is not installed")
    assert mlw(flights, "new", "hub").returncode == 0
    signing_key, public_key = new_pair()
    with (flights / "settings.ini").open("a") as told:
        told.write(f"\n[roles]\nadmin = boss\napprover = ada\n[audit]\npublic_key = {public_key}\n")
    signed = mlw(flights, "users", "sign", MLW_USER="boss", MLW_SIGNING_KEY=signing_key)
    assert signed.returncode == 0, signed.stderr
    config, ports = flights / "jupyterhub_config.py", [free_port() for _ in range(4)]
    text = re.sub(r"^PORT = \d+", f"PORT = {ports[0]}", config.read_text(), flags=re.MULTILINE)
    public, proxy, own = (f"http://127.0.0.1:{p}" for p in ports[1:])
    text += f"""
c.JupyterHub.bind_url, c.ConfigurableHTTPProxy.api_url, c.JupyterHub.hub_bind_url = "{public}", "{proxy}", "{own}"
c.JupyterHub.authenticator_class, c.DummyAuthenticator.password = "dummy", "a-password"
c.JupyterHub.db_url = "sqlite:///:memory:"
"""
    config.write_text(text)
    show_environment(flights, "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_CLIENT_ID", "MLW_SIGNING_KEY")
    log, path = flights / "hub.log", str(Path(sys.executable).parent)
    command = (str(Path(MLW).with_name("jupyterhub")), "-f", str(config))
    env = {"PATH": f"{path}:/usr/bin:/bin", "MLW_SIGNING_KEY": signing_key}
    process = start(*command, cwd=flights, log=log, **env)
    until_it_answers(f"{public}/services/workbench/login", process, log)
    return public


def log_in(client: httpx.Client, public: str, name: str) -> httpx.Response:
    "The page that one sees after it."
    page = client.get(f"{public}/services/workbench/oauth/begin", params={"next": "/services/workbench/home"})
    assert "/hub/login" in str(page.url), page.text[-500:]
    form = {"username": name, "password": "a-password", "_xsrf": client.cookies.get("_xsrf", path="/hub/")}
    return client.post(str(page.url), data=form)


def test_a_jupyterhub_has_the_workbench_as_its_service(hub, flights):
    public = hub
    with httpx.Client(timeout=120, follow_redirects=True) as client:
        nobody = client.get(f"{public}/services/workbench/home")
        assert nobody.url.path == "/services/workbench/login" and "Log in with JupyterHub" in nobody.text
        home = log_in(client, public, "ada")
        assert home.url.path == "/services/workbench/home" and "ada, approver" in home.text
        page = client.get(f"{public}/services/workbench/dashboards/approvals")
        assert page.status_code == 200 and "Approvals" in page.text
        assert client.get(f"{public}/services/workbench/lab").status_code == 200
        assert client.get(f"{public}/services/workbench/settings").status_code == 403
        xsrf = {"X-XSRFToken": client.cookies.get("_xsrf", path="/services/workbench/")}
        told = {"action": "approve", "model": "flights", "reason": "by the hub"}
        done = client.post(f"{public}/services/workbench/mlw/decisions", json=told, headers=xsrf)
        assert done.status_code == 200, done.text
    servers = [
        p.info
        for p in psutil.process_iter(["cmdline", "environ"])
        if "forkserver" in " ".join(p.info["cmdline"] or [])
    ]
    own = [s for s in servers if str(flights) in " ".join(s["cmdline"])]
    assert own and not [s for s in own if "JUPYTERHUB_API_TOKEN" in s["environ"]]
    settings = read_settings(flights)
    row = read_audit(settings, "flights")[-1]
    assert row.actor == "ada" and is_row_signed(settings, row) and verify_audit(settings) == []
    with httpx.Client(timeout=120, follow_redirects=True) as client:
        assert "vera, viewer" in log_in(client, public, "vera").text
        assert client.get(f"{public}/services/workbench/lab").status_code == 403
        client.cookies.clear()
        log_in(client, public, "ada")
        page = client.get(f"{public}/services/workbench/voila/render/{SHOWN}")
        assert (
            "KNOWN ada JUPYTERHUB_API_TOKEN=False JUPYTERHUB_CLIENT_ID=True MLW_SIGNING_KEY=False"
            in page.text
        )
