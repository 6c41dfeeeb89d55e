"""Both dashboards as a person sees them: rendered by Voila, in a real browser."""

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, sync_playwright
from projects import MLW, mlw

from mlworkbench.core.settings import read_settings
from mlworkbench.governance.audit import read_audit, verify
from mlworkbench.pipeline.tracking import mlflow_client

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine; on Debian: apt-get install chromium"
)
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, start, request):
    "Opens a dashboard of a project; every message that the browser logs as an error fails the test."

    def _open(project: Path, name: str, width: int = 1280) -> Page:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = project / "voila.log"
        server = start(MLW, "dashboards", "--no-browser", "--port", str(port), cwd=project, log=log)
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urlopen(address, timeout=5).close()
                break
            except (URLError, ConnectionError):
                assert server.poll() is None, log.read_text()
                time.sleep(0.2)
        page = browser.new_page(viewport={"width": width, "height": 2400})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/voila/render/{name}.ipynb")
        page.wait_for_selector(".mlw-card, .mlw-note", timeout=90_000)
        request.addfinalizer(lambda: (page.close(), _none(errors)))
        return page

    def _none(errors: list[str]) -> None:
        assert not errors

    return _open


def test_a_click_on_approve_moves_the_alias_and_writes_the_audit_row(flights, open_page):
    page = open_page(flights, "approvals")
    assert page.get_by_text("flights version 1 asks to be the first in production").is_visible()
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("reason").first.wait_for(timeout=20_000)
    settings = read_settings(flights)
    assert read_audit(settings) == [], "a decision needs a reason"
    page.get_by_placeholder("Why?").fill("AUC well above the baseline")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("is champion now").wait_for(timeout=30_000)
    assert mlflow_client(settings).get_registered_model("flights").aliases == {"champion": 1}
    rows = read_audit(settings)
    assert [(r.action, r.model, r.version, r.reason) for r in rows] == [
        ("approve", "flights", 1, "AUC well above the baseline")
    ]
    assert verify(rows) == []
    assert page.get_by_text("Nothing waits for a decision").is_visible()


def test_the_monitor_shows_each_month_and_redraws_on_a_choice(flights, open_page):
    mlw(flights, "approve", "flights", "--reason", "first")
    scored = mlw(flights, "score", "flights", "--month", "2013-04", "--month", "2013-07")
    assert scored.returncode == 0, scored.stderr
    assert mlw(flights, "monitor", "flights").returncode == 0
    page = open_page(flights, "monitor")
    page.get_by_text("Look closer").wait_for(timeout=60_000)
    for words in ("2013-04", "2013-07", "What has moved"):
        assert page.get_by_text(words).first.is_visible()
    pictures = page.locator("img")
    assert pictures.count() >= 4
    assert all(pictures.nth(i).get_attribute("alt") for i in range(pictures.count()))
    before = pictures.last.get_attribute("src")
    feature = page.locator("select").last
    feature.select_option(index=1)
    page.wait_for_function("old => [...document.images].at(-1).src !== old", arg=before, timeout=30_000)


def test_before_anything_has_run_the_pages_say_what_to_do(project, open_page):
    page = open_page(project, "monitor")
    assert page.get_by_text("No model has been registered yet").is_visible()


def test_a_narrow_screen_needs_no_sideways_scrolling(flights, open_page):
    page = open_page(flights, "approvals", width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.get_by_role("button", name="Approve").bounding_box()["x"] < 300
