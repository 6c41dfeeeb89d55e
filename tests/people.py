"""Four people in front of one server, as browsers without a window."""

import http.client
import json
import re
import ssl
from urllib.parse import urlencode

PEOPLE = {"vera": "viewer", "sam": "scientist", "ada": "approver", "boss": "admin"}
PAGE = "nbs/dashboards/leak.ipynb"  # a dashboard that shows its token, as no real one does


def password(name: str) -> str:
    return f"secret-of-{name}-4711"


class Person:
    "A browser without a window: keeps cookies, sends what forms send."

    def __init__(self, port: int, tls: ssl.SSLContext | None = None):
        self.port, self.tls, self.cookies, self.said = port, tls, {}, []

    def ask(self, method: str, path: str, body: str | dict = "", **headers: str) -> tuple[int, str]:
        make = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        connection = make("127.0.0.1", self.port, timeout=200, **({"context": self.tls} if self.tls else {}))
        sent = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())} if self.cookies else {}
        if method != "GET" and "_xsrf" in self.cookies and "X_XSRFToken" not in headers:
            sent["X-XSRFToken"] = self.cookies["_xsrf"]
        sent |= {k.replace("_", "-"): v for k, v in headers.items()}
        if isinstance(body, dict):
            body, sent["Content-Type"] = json.dumps(body), "application/json"
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        text, self.headers = answer.read().decode(errors="replace"), answer.headers
        for line in answer.headers.get_all("Set-Cookie", []):
            self.said.append(line)
            name, _, value = line.split(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return answer.status, text

    def log_in(self, name: str, typed: str = "") -> int:
        self.ask("GET", "/login")
        form = urlencode({"username": name, "password": typed or password(name)})
        return self.ask("POST", "/login", form, Content_Type="application/x-www-form-urlencoded")[0]

    def page_token(self) -> tuple[str, str]:
        "Token and kernel of a dashboard that this person opens."
        status, text = self.ask("GET", f"/voila/render/{PAGE}")
        assert status == 200, text[-500:]
        return re.search(r"TOKEN(\S+?)END", text).group(1), re.search(r'"kernelId": ?"([\w-]+)"', text).group(
            1
        )
