"""The page's target: how soon after a key press the reading of a draft has changed, in a real browser, on one core.

Browser, gateway and a server without a model all run on that core; the browser is Debian's chromium.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page
from tokenizers import Tokenizer

from benchmarks.browser import chromium
from benchmarks.server_process import started
from del_codec.shipped import TOKENIZER_FILE, codec_folders

TOKENS = 200
ROUNDS = 5
# Between keys, and between looks at the page, which take its core's time, too.
PAUSE = 0.1
WORDS = "the weather was mild and nobody at the station knew why the last train had left without its driver "
KEYS = "and then somebody saw it "
WATCH = """() => {
  window.waits = [];
  let pressed = 0;
  addEventListener("keydown", () => { pressed = performance.now(); }, true);
  const seen = () => { if (pressed) waits.push(performance.now() - pressed); pressed = 0; };
  new MutationObserver(seen).observe(document.getElementById("chips"), { childList: true, subtree: true });
}"""


def reading_ms() -> float:
    """Milliseconds from a key press to the change of the chips on the page, for a draft of TOKENS tokens.

    That of the slowest key of KEYS, each at its quickest in ROUNDS: what else runs on the machine only adds to it.
    """
    with one_core(), tempfile.TemporaryDirectory() as folder, started("benchmarks.stub") as server:
        options = ("--port", "0", "--server", server.address, "--ledger", str(Path(folder) / "ledger.sqlite3"))
        with started("del_client.cli", "gateway", *options) as gateway, _page(gateway.address) as page:
            page.evaluate(WATCH)
            rounds = [_round(page) for _ in range(ROUNDS)]
    return max(min(waits) for waits in zip(*rounds, strict=True))


def _round(page: Page) -> list[float]:
    """The wait after each key."""
    page.fill("#draft", _draft())
    page.locator(".chip").nth(TOKENS - 1).wait_for(state="attached")
    page.evaluate("waits.length = 0")
    for count, key in enumerate(KEYS, start=1):
        page.keyboard.press("Space" if key == " " else key)
        time.sleep(PAUSE)
        while page.evaluate("waits.length") < count:
            time.sleep(PAUSE)
    waits: list[float] = page.evaluate("waits")
    return waits


@contextmanager
def one_core() -> Iterator[None]:
    """This process, and those that it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _page(url: str) -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        page.locator("#link[data-state=on]").wait_for()
        yield page


def _draft() -> str:
    tokenizer = Tokenizer.from_file(str(codec_folders()[0] / TOKENIZER_FILE))
    text = WORDS * (TOKENS // 10)
    end: int = tokenizer.encode(text, add_special_tokens=False).offsets[TOKENS - 1][1]
    return text[:end] + " "
