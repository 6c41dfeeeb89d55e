"""Pictures of every page of `mlw up`, at both widths, in light and dark: `make pictures` writes docs/pictures/*.png.

They show the project of benchmarks/dashboards.py: flights, one in forty, two monitored months, a challenger that waits.
"""

import asyncio
import io
import os
import signal
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import async_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from dashboards import CHROMIUM, MLW, PEOPLE, log_in, make_project, start

PAGES = ("home", "approvals", "monitor", "experiments", "pipeline", "data", "serving", "settings", "login")
TALLEST = 2400  # pixels; what is below says no more about how a page looks


async def take(port: int, folder: Path) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for width in (1280, 400):
            for scheme in ("light", "dark"):
                context = await browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                )
                await log_in(context, port, PEOPLE[0])
                for name in PAGES:
                    page = await context.new_page()
                    if name == "login":
                        await context.clear_cookies()
                    plain = name in ("home", "serving", "settings", "login")
                    await page.goto(f"http://127.0.0.1:{port}/{name if plain else f'dashboards/{name}'}")
                    if not plain:
                        await page.wait_for_selector(".jupyter-widgets h1", timeout=90_000)
                        await page.wait_for_timeout(3000)  # figures are drawn after the words
                    if name == "experiments":
                        await page.get_by_role("button", name="Compare").click()
                        await page.get_by_text("version 2 against 1").wait_for(timeout=60_000)
                    picture = Image.open(io.BytesIO(await page.screenshot(full_page=True)))
                    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST)))
                    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=96).save(
                        folder / f"{name}-{width}-{scheme}.png", optimize=True
                    )
                    await page.close()
                await context.close()
        await browser.close()


def main() -> None:
    folder = Path(__file__).parent / "pictures"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mlw-pictures-") as place:
        os.environ["XDG_RUNTIME_DIR"] = place
        project = make_project(Path(place))
        server, port = start([MLW, "up", "--no-browser", "--port", "PORT"], project, "up")
        try:
            asyncio.run(take(port, folder))
        finally:
            os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
