"""How soon a dashboard shows something, beside plain Voila on the same notebook; and ten people at once.

    python benchmarks/dashboards.py [--rounds 7]

A real Chromium opens the pages of a real project: flights, one in forty, with two monitored months and a challenger that waits. What counts is the
first moment at which the page's own content can be read: the newest month's verdict, or the challenger's request. Both servers run all the time
and are asked in turn, each once before anything is counted; a page is opened from the server's first page, in a window that is there already and
has the scripts in its cache, as a person's has. Chromium is the one without windows to paint (chromium-headless-shell) where that is installed:
ten windows of a whole Chromium cost these two processors as much as the pages. What ten windows need for an empty page is told beside the rest.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from peers import judge
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from mlworkbench.app.identity import set_password
from mlworkbench.core.settings import read_settings

MLW = str(Path(sys.executable).with_name("mlw"))
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
WORDS = {"monitor": "version 1 in 2013-07", "approvals": "version 2 asks to replace version 1"}
EMPTY = "an empty page"
SHOWN = (
    "words => [...document.querySelectorAll('h2')].some(e => e.offsetParent && e.textContent.includes(words))"
)
PEOPLE = [f"person{i}" for i in range(10)]
PASSWORD = "a-password-for-a-benchmark"


def make_project(folder: Path) -> Path:
    "A project in which there is something to see."
    project = folder / "project"
    small = ("-p", "ingest.every=40")
    commands = [
        ("init", str(project)),
        ("run", "flights", *small),
        ("approve", "flights", "--reason", "first"),
    ]
    commands += [("score", "flights", "--month", "2013-04", "--month", "2013-07"), ("monitor", "flights")]
    commands += [("run", "flights", *small, "-p", "train.seed=1")]
    for command in commands:
        where = project if project.exists() else folder
        done = subprocess.run([MLW, *command], cwd=where, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"mlw {' '.join(command)}:\n{done.stdout}{done.stderr}")
    for name in PEOPLE:
        set_password(read_settings(project), name, PASSWORD)
    return project


def start(command: list[str], project: Path, name: str) -> tuple[subprocess.Popen, int]:
    "A server that answers, and its port, which takes the place of PORT in the command."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (project / f"{name}.log").open("w")
    server = subprocess.Popen(
        [w.replace("PORT", str(port)) for w in command],
        cwd=project,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return server, port
        except OSError:
            if server.poll() is not None:
                raise SystemExit((project / f"{name}.log").read_text()[-2000:]) from None
            time.sleep(0.2)
    raise SystemExit(f"{name} does not answer.")


async def log_in(context: BrowserContext, port: int, name: str) -> None:
    page = await context.new_page()
    await page.goto(f"http://127.0.0.1:{port}/home")
    await page.fill("#username", name)
    await page.fill("#password", PASSWORD)
    await page.click("button")
    await page.wait_for_url("**/home")
    await page.close()


async def window(context: BrowserContext, address: str) -> Page:
    "A window that shows the server's first page."
    page = await context.new_page()
    await page.goto("/".join(address.split("/")[:3]))
    await asyncio.sleep(0.5)
    return page


async def first_content(page: Page, address: str, words: str, stay: float = 0.0) -> float:
    "Seconds until the words can be read in the window, which is closed then."
    began = time.perf_counter()
    await page.goto(address, wait_until="commit")
    await page.wait_for_function(SHOWN, arg=words, timeout=120_000)  # looked at in every frame
    seconds = time.perf_counter() - began
    await asyncio.sleep(stay)  # a page that has shown its words still brings its controls to life
    await page.close()
    return seconds


async def side_by_side(
    browser: Browser, ours: int, plain: int, rounds: int
) -> dict[tuple[str, str], list[float]]:
    "Seconds of each side and page."
    context, other = await browser.new_context(), await browser.new_context()
    await log_in(context, ours, PEOPLE[0])
    sides = {
        "mlw up": (context, f"http://127.0.0.1:{ours}/dashboards/NAME"),
        "plain voila": (other, f"http://127.0.0.1:{plain}/voila/render/NAME.ipynb"),
    }
    found: dict[tuple[str, str], list[float]] = {}
    for round_ in range(-1, rounds):
        for name in WORDS:
            for side, (who, address) in sorted(sides.items(), reverse=bool(round_ % 2)):
                address = address.replace("NAME", name)
                seconds = await first_content(await window(who, address), address, WORDS[name], 2.0)
                if round_ >= 0:  # the first only fills caches
                    found.setdefault((side, name), []).append(seconds)
    return found


async def ten_at_once(browser: Browser, port: int, empty: str) -> tuple[list[float], list[float], float]:
    "Seconds of ten people who open a page in the same moment, half of them Monitor, half Approvals; of an empty page; and until their kernels are gone."
    contexts = [await browser.new_context() for _ in PEOPLE]
    address = f"http://127.0.0.1:{port}/dashboards"
    for context, name in zip(contexts, PEOPLE, strict=True):
        await log_in(context, port, name)
        await first_content(await window(context, address), f"{address}/monitor", WORDS["monitor"], 1.0)
    names = [list(WORDS)[i % 2] for i in range(len(PEOPLE))]
    windows = [await window(context, address) for context in contexts]
    blank = await asyncio.gather(*(first_content(page, empty, EMPTY) for page in windows))
    windows = [await window(context, address) for context in contexts]
    pages = (
        first_content(page, f"{address}/{name}", WORDS[name])
        for page, name in zip(windows, names, strict=True)
    )
    told = [t for t in await asyncio.gather(*pages, return_exceptions=True) if isinstance(t, float)]
    return told, blank, await pages_gone(contexts, port)


async def measure(project: Path, rounds: int) -> list[tuple]:
    up, ours = start([MLW, "up", "--no-browser", "--port", "PORT"], project, "up")
    dashboards = str(project / "nbs" / "dashboards")
    voila = [sys.executable, "-m", "voila", dashboards, "--no-browser", "--port=PORT", "--Voila.ip=127.0.0.1"]
    plain, theirs = start(voila, project, "voila")
    try:
        async with async_playwright() as playwright:
            options = [
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
            ]
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=options)
            found = await side_by_side(browser, ours, theirs, rounds)
            plain.send_signal(signal.SIGINT)
            empty = project.parent / "empty.html"
            empty.write_text(f"<!doctype html><h2>{EMPTY}</h2>")
            many, blank, gone = await ten_at_once(browser, ours, empty.as_uri())
            await browser.close()
    finally:
        for server in (up, plain):
            os.killpg(server.pid, signal.SIGKILL)
    medians = {key: statistics.median(told) for key, told in found.items()}
    print("\n| page | side | first content, s (median) | least | most |\n| --- | --- | ---: | ---: | ---: |")
    for (side, name), told in sorted(found.items(), key=lambda f: f[0][::-1]):
        print(f"| {name} | {side} | {medians[side, name]:.2f} | {min(told):.2f} | {max(told):.2f} |")
    print(f"\nTen at once: median {statistics.median(many):.2f} s, most {max(many):.2f} s")
    print(
        f"An empty page, a file, ten at once in the same windows: median {statistics.median(blank):.2f} s\n"
    )
    targets = []
    for name in WORDS:
        targets.append(
            (
                f"{name}: times sooner than plain voila",
                medians["plain voila", name] / medians["mlw up", name],
                5,
                True,
            )
        )
        targets.append((f"{name}: seconds to first content", medians["mlw up", name], 1.5, False))
    targets.append(("ten people at once: median seconds", statistics.median(many), 3, False))
    targets.append(("ten people at once: pages that failed", float(len(PEOPLE) - len(many)), 0, False))
    targets.append(("seconds until the kernels of closed pages are gone", gone, 60, False))
    return targets


async def pages_gone(contexts: list[BrowserContext], port: int) -> float:
    "Seconds until none of these people has a kernel left; their pages were closed without a word to the server, as by a crash."
    began = time.monotonic()
    for context in contexts:
        while await (await context.request.get(f"http://127.0.0.1:{port}/api/kernels")).json():
            if time.monotonic() - began > 180:
                return time.monotonic() - began
            await asyncio.sleep(0.5)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium on this machine; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="mlw-bench-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        project = make_project(Path(folder))
        targets = asyncio.run(measure(project, rounds))
        subprocess.run([MLW, "kernels", "stop"], cwd=project, capture_output=True)
    return judge(targets)


if __name__ == "__main__":
    raise SystemExit(main())
