"""The dashboards as people see them: rendered by Voila, in a real browser, alone and behind `mlw up`."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from people import Person, password
from projects import MLW, free_port, mlw

from mlworkbench.core.settings import read_settings
from mlworkbench.core.store import Store
from mlworkbench.governance.audit import read_audit, verify
from mlworkbench.pipeline.history import list_runs
from mlworkbench.pipeline.tracking import mlflow_client

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine; on Debian: apt-get install chromium"
)
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
expect.set_options(timeout=30_000)  # a page comes piece by piece, and slowly on a busy machine


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
        port = free_port()
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
    expect(page.get_by_text("flights version 1 asks to be the first in production")).to_be_visible()
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("reason").first.wait_for(timeout=60_000)
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
    expect(page.get_by_text("Nothing waits for a decision")).to_be_visible()


def test_the_monitor_shows_each_month_and_redraws_on_a_choice(flights, open_page):
    mlw(flights, "approve", "flights", "--reason", "first")
    scored = mlw(flights, "score", "flights", "--month", "2013-04", "--month", "2013-07")
    assert scored.returncode == 0, scored.stderr
    assert mlw(flights, "monitor", "flights").returncode == 0
    page = open_page(flights, "monitor")
    page.get_by_text("Look closer").wait_for(timeout=60_000)
    for words in ("2013-04", "2013-07", "What has moved"):
        expect(page.get_by_text(words).first).to_be_visible()
    pictures = page.locator("img")
    for words in ("AUC by month", "What was predicted", "Features that moved"):  # each comes when it is drawn
        page.locator(f"img[alt^='{words}']").wait_for(timeout=30_000)
    assert pictures.count() >= 4
    assert all(pictures.nth(i).get_attribute("alt") for i in range(pictures.count()))
    shown = page.locator("img[alt$=': training and 2013-07']")
    before = shown.get_attribute("alt")
    page.get_by_label("Feature").select_option(index=1)
    page.wait_for_function("old => !document.querySelector(`img[alt='${old}']`)", arg=before, timeout=30_000)
    assert shown.count() == 1


def test_before_anything_has_run_the_pages_say_what_to_do(project, open_page):
    page = open_page(project, "monitor")
    expect(page.get_by_text("No model has been registered yet")).to_be_visible()


def test_a_narrow_screen_needs_no_sideways_scrolling(flights, open_page):
    page = open_page(flights, "approvals", width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.get_by_role("button", name="Approve").bounding_box()["x"] < 300


@pytest.fixture
def enter(browser, request):
    "Logs a person in at `mlw up`, as they do it; a script's error or a dialog fails the test."

    def _enter(person: Person, name: str, width: int = 1280, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
        page.goto(f"http://127.0.0.1:{person.port}/home")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password(name))
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/home")
        request.addfinalizer(lambda: (context.close(), none(errors)))
        return page

    def none(errors: list[str]) -> None:
        assert not errors

    return _enter


def visit(page: Page, name: str) -> None:
    "Go to a dashboard, and wait until it is alive."
    page.goto(page.url.split("/", 3)[0] + "//" + page.url.split("/")[2] + f"/dashboards/{name}")
    page.wait_for_selector(".jupyter-widgets h1", timeout=90_000)


EARLY = """new MutationObserver((_, seen) => {
  const cell = document.querySelector(".mlw-cell[data-pick*=wind_speed]");
  if (!cell) return;
  seen.disconnect();
  window.wasEarly = !document.querySelector(".mlw-picked input");
  cell.click();
}).observe(document, { childList: true, subtree: true });"""


def test_a_challenger_from_a_scientists_run_is_approved_served_and_monitored(team, flights, start, enter):
    people = team()
    assert mlw(flights, "approve", "flights", "--reason", "first", MLW_USER="ada").returncode == 0
    port = free_port()
    service = start(MLW, "serve", "flights", "--port", str(port), cwd=flights, log=flights / "serve.log")

    sam = enter(people["sam"], "sam")
    visit(sam, "pipeline")
    expect(sam.locator("svg").get_by_text("register").first).to_be_visible()
    sam.get_by_text("train: Train").click()
    sam.get_by_label("iterations").fill("30")
    sam.keyboard.press("Tab")
    sam.get_by_role("button", name="Run", exact=True).click()
    sam.get_by_text("Running, with train.iterations=30").wait_for(timeout=60_000)
    sam.get_by_text("The run is done.").wait_for(timeout=180_000)
    visit(sam, "experiments")
    sam.get_by_role("button", name="Compare").click()
    sam.get_by_text("flights version 2 against 1").wait_for(timeout=60_000)
    expect(sam.get_by_text("train.iterations").first).to_be_visible()
    visit(sam, "approvals")
    expect(sam.get_by_text("one must be approver")).to_be_visible()
    assert sam.get_by_role("button", name="Approve").count() == 0

    ada = enter(people["ada"], "ada")
    visit(ada, "approvals")
    ada.get_by_role("button", name="Model card").click()
    ada.get_by_text("Where it does not hold").wait_for(timeout=60_000)
    ada.get_by_role("button", name="Try it").click()
    ada.get_by_role("button", name="Ask the models").wait_for(timeout=60_000)
    expect(ada.get_by_text("what came")).to_be_visible()
    ada.get_by_placeholder("Why?").first.fill("a smaller model will do")
    ada.keyboard.press("Tab")
    ada.get_by_role("button", name="Approve").click()
    ada.get_by_text("flights version 2 is champion now").wait_for(timeout=30_000)
    assert [r.actor for r in read_audit(read_settings(flights))] == ["ada", "ada"]
    deadline = time.monotonic() + 60
    while '"2"' not in urlopen(f"http://127.0.0.1:{port}/v2/models/flights", timeout=5).read().decode():
        assert service.poll() is None and time.monotonic() < deadline, (flights / "serve.log").read_text()
        time.sleep(0.5)

    for command in (("score", "flights", "--month", "2013-04"), ("monitor", "flights")):
        done = mlw(flights, *command, MLW_USER="sam")
        assert done.returncode == 0, done.stderr
    vera = enter(people["vera"], "vera")
    vera.add_init_script(EARLY)
    visit(vera, "monitor")
    assert vera.evaluate("window.wasEarly"), "there was a field already when the cell was clicked"
    vera.locator("img[alt='wind_speed: training and 2013-04']").wait_for(timeout=60_000)
    expect(vera.get_by_text("flights version 2 in 2013-04")).to_be_visible()
    cell = vera.get_by_role("button", name="temp in 2013-04")
    cell.click()
    vera.locator("img[alt='temp: training and 2013-04']").wait_for(timeout=30_000)
    assert cell.get_attribute("aria-pressed") == "true"
    visit(vera, "pipeline")
    expect(vera.get_by_text("must be scientist")).to_be_visible()
    assert vera.get_by_role("button", name="Run", exact=True).count() == 0


def tab_to(page: Page, name: str) -> None:
    "Press Tab until what has this name has the focus, and shows it."
    told = """() => { const e = document.activeElement, s = getComputedStyle(e);
        return [e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.placeholder || e.innerText || "", s.outlineStyle !== "none" || s.boxShadow !== "none"]; }"""
    seen = []
    for _ in range(150):
        page.keyboard.press("Tab")
        label, is_shown = page.evaluate(told)
        seen.append(label[:40])
        if label.strip().startswith(name):
            assert is_shown, f"'{name}' has the focus and does not show it"
            return
    raise AssertionError((name, seen))


def test_a_decision_is_made_and_a_distribution_chosen_by_keyboard_alone(team, flights, browser):
    people = team()
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.goto(f"http://127.0.0.1:{people['ada'].port}/login?next=/dashboards/approvals")
    tab_to(page, "Name")
    page.keyboard.type("ada")
    tab_to(page, "Password")
    page.keyboard.type(password("ada"))
    page.keyboard.press("Enter")
    page.wait_for_selector(".jupyter-widgets h1", timeout=90_000)
    tab_to(page, "Reason")
    page.keyboard.type("by keyboard")
    tab_to(page, "Approve")
    page.keyboard.press("Enter")
    page.get_by_text("flights version 1 is champion now").wait_for(timeout=30_000)
    for command in (("score", "flights", "--month", "2013-04"), ("monitor", "flights")):
        assert mlw(flights, *command, MLW_USER="sam").returncode == 0
    visit(page, "monitor")
    tab_to(page, "temp in 2013-04")
    page.keyboard.press("Space")
    page.locator("img[alt='temp: training and 2013-04']").wait_for(timeout=30_000)
    tab_to(page, "Slice by slice")
    page.keyboard.press("Enter")
    page.get_by_text("No slice has 200 rows both in this window and on the hold-out").wait_for(timeout=60_000)
    tab_to(page, "Window")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    page.locator("img[alt='temp: training and 2013-04, 22nd to the end']").wait_for(timeout=60_000)
    page.keyboard.press("End")
    page.locator("img[alt='temp: training and 2013-04-01 to 2013-04-30']").wait_for(timeout=60_000)
    tab_to(page, "From")
    page.keyboard.type("04102013")
    page.locator("img[alt='temp: training and 2013-04-10 to 2013-04-30']").wait_for(timeout=60_000)
    expect(page.get_by_text("predictions, labels of")).to_be_visible()
    assert grave(page) == []
    page.context.close()


LATE = """const plain = window.fetch;
window.lateAnswers = 0;
window.fetch = async (...asked) => {
  const isLate = window.lateAnswers > 0 && new URL(asked[0].url ?? asked[0], location).pathname.endsWith("/mlw/step");
  if (isLate) window.lateAnswers -= 1;
  const answer = await plain(...asked);
  if (isLate) {
    await new Promise((done) => setTimeout(done, 8000));
    window.hasAnsweredLate = true;
  }
  return answer;
};"""


def test_in_jupyterlab_a_step_is_made_looked_at_and_run(team, flights, enter):
    sam = enter(team()["sam"], "sam", 1500)
    sam.add_init_script(LATE)
    lab = sam.url.removesuffix("/home") + "/lab"
    sam.goto(f"{lab}?reset")
    tile = sam.locator(".jp-LauncherCard", has_text="New step")
    tile.wait_for(timeout=90_000)
    for words in ("New dashboard", "Run a pipeline", "Dashboards", "MLflow"):
        expect(sam.locator(".jp-LauncherCard", has_text=words).first).to_be_visible()
    tile.click()
    sam.locator(".jp-Dialog input").fill("small/first")
    sam.get_by_role("button", name="Make it").click()
    sam.locator(".jp-NotebookPanel").wait_for(timeout=60_000)
    assert (flights / "nbs/pipelines/small/01_first.ipynb").exists()
    sam.locator(".mlw-side").get_by_text("it has not been run yet").wait_for(state="attached", timeout=60_000)
    sam.evaluate("window.lateAnswers = 1")  # what is asked when the notebook is saved for the run
    sam.get_by_role("button", name="Run step").click()
    sam.wait_for_function("window.hasAnsweredLate", timeout=60_000)
    sam.get_by_text("nothing has changed since its last run").wait_for(timeout=120_000)
    expect(sam.locator(".mlw-side").get_by_text("The run is done")).to_be_visible()
    expect(sam.locator(".mlw-side").get_by_text("small/first")).to_be_visible()
    sam.get_by_role("button", name="Run step").click()
    sam.locator(".mlw-side tr", has_text="cached").wait_for(timeout=120_000)
    expect(sam.locator(".mlw-side").get_by_text("The run is done")).to_be_visible()
    records = list_runs(Store(str(flights / ".mlw/store")), "small")
    assert [(r["user"], r["state"]) for r in records] == [("sam", "done")] * 2
    for record in records:
        row = sam.locator(".mlw-side tr", has_text=record["run"])
        expect(row.get_by_text(record["steps"]["first"]["fingerprint"][:12])).to_be_visible()
    assert sam.get_by_text("Jupyter news").count() == 0


def grave(page) -> list[tuple[str, list[str]]]:
    "What axe finds that keeps people from using the page."
    source = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text()
    page.evaluate(source)
    found = page.evaluate("axe.run()")["violations"]
    return [
        (v["id"], [n["html"][:200] for n in v["nodes"]])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


EVIL = "<img src=x onerror=alert(1)>"


def test_every_page_is_fit_for_all_and_runs_no_script_of_a_name(team, flights, enter):
    people = team()
    assert mlw(flights, "approve", "flights", "--reason", "first", MLW_USER="ada").returncode == 0
    client = mlflow_client(read_settings(flights))
    client.create_registered_model("evil")
    client.create_model_version("evil", f"{flights}/nothing", tags={"mlw.run": EVIL, "metric.auc": "0.5"})
    client.set_registered_model_alias("evil", "challenger", "1")
    client.update_registered_model("evil", EVIL)
    client.update_model_version("evil", "1", EVIL)
    for width, scheme in ((1280, "light"), (400, "dark")):
        boss = enter(people["boss"], "boss", width, scheme)
        for name in ("home", "approvals", "monitor", "experiments", "pipeline", "data"):
            visit(boss, name)
            boss.wait_for_timeout(1500)
            assert boss.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            assert grave(boss) == [], (name, scheme)
        boss.goto(boss.url.split("/voila")[0] + "/serving")
        boss.get_by_text("The answer has a number a row").wait_for()
        assert boss.evaluate("document.documentElement.scrollWidth") <= width
        assert grave(boss) == []
        boss.goto(boss.url.split("/serving")[0] + "/settings")
        expect(boss.get_by_text("gateway.minutes")).to_be_visible()
