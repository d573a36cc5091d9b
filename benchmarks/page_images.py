"""Pictures of the page for docs/: a browser before a real server and a gateway of its own (`make page-images`).

Needs chromium and the development environment. The bits are drawn anew each time, so no two runs give the same picture.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from benchmarks.browser import chromium
from benchmarks.server_process import running_server, started

IMAGES = Path(__file__).parent.parent / "docs" / "images"
DRAFT = "My daughter {{Anna}} has a fever and a rash. What should I do?"
WEAK_MU = "20"
WAIT_MS = 120_000
GAP = 20


def main() -> int:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as folder, running_server() as server, chromium() as browser:
        options = ("--port", "0", "--server", server.address, "--ledger", str(Path(folder) / "ledger.sqlite3"))
        with started("del_client.cli", "gateway", *options, "--max-tokens", "80") as gateway:
            _save("page-light.png", [_before(browser, gateway.address)])
            _save("page-dark.png", [_answered(browser, gateway.address)])
            _save("page-phone.png", _phone(browser, gateway.address))
    return 0


def _before(browser: Browser, url: str) -> bytes:
    page = _drafted(browser, url, width=1280, height=1090)
    return page.screenshot()


def _answered(browser: Browser, url: str) -> bytes:
    page = _drafted(browser, url, width=1280, height=860, scheme="dark")
    page.evaluate(
        """mu => {
            const dial = document.getElementById('mu'), wanted = new RegExp(`^mu ${mu}\\\\b`);
            for (let at = 0; at <= Number(dial.max); at++) {
                dial.value = at;
                dial.dispatchEvent(new Event('input', {bubbles: true}));
                if (wanted.test(document.getElementById('mu-value').textContent)) break;
            }
            dial.dispatchEvent(new Event('change', {bubbles: true}));
        }""",
        WEAK_MU,
    )
    page.wait_for_timeout(1000)
    page.click("#send")
    page.wait_for_selector("#stop", state="visible")
    page.wait_for_selector("#stop", state="hidden")
    page.wait_for_timeout(500)
    return page.screenshot()


def _phone(browser: Browser, url: str) -> list[bytes]:
    page = _drafted(browser, url, width=390, height=780)
    shots = [page.screenshot()]
    page.click("#show-leaves")
    shots.append(page.screenshot())
    page.evaluate("document.getElementById('odds-title').scrollIntoView({block: 'center'})")
    return [*shots, page.screenshot()]


def _drafted(browser: Browser, url: str, *, width: int, height: int, scheme: str = "light") -> Page:
    """A new page with the draft in it, read."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.wait_for_selector("#link[data-state=on]")
    page.fill("#draft", DRAFT)
    page.wait_for_selector(".chip", state="attached")
    page.wait_for_timeout(1500)
    return page


def _save(name: str, shots: list[bytes]) -> None:
    """Side by side, in 256 colours."""
    pictures = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    whole = Image.new("RGB", (width, pictures[0].height), "white")
    at = 0
    for picture in pictures:
        whole.paste(picture, (at, 0))
        at += picture.width + GAP
    whole.quantize(256).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
