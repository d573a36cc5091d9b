"""The page in a real browser, before `del-client gateway` and a `del-server` whose model takes its time."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import needs_chromium, opened
from gateway_process import gateway
from playwright.sync_api import Browser, Page, expect
from server_process import running

from benchmarks.browser import chromium
from del_client import Ledger

pytestmark = needs_chromium

TOKENS = 24
SECONDS_A_TOKEN = "0.08"
SLOW_SERVER = [sys.executable, str(Path(__file__).with_name("slow_server.py")), SECONDS_A_TOKEN, "serve", "--port", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def url(tiny_model: Path, tiny_codec: Path, folder: Path) -> Iterator[str]:
    command = [*SLOW_SERVER, "--model", str(tiny_model), "--codec", str(tiny_codec)]
    with (
        running(command) as server,
        gateway(server, tiny_codec, folder, "--max-tokens", str(TOKENS)) as url,
    ):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def charged(folder: Path) -> int:
    with Ledger(folder / "ledger.sqlite3") as ledger, ledger.reading() as entries:
        return sum(group.tokens for group in entries.groups("day", 1))


def chips(page: Page) -> list[str]:
    """What each chip tells: its token, its bits, the attack's guess and how sure that is."""
    return [chip.get_attribute("aria-label") or "" for chip in page.locator(".chip").all()]


def bits(page: Page) -> list[str]:
    """What would leave of each token. A guess may be a piece of a character, and shown otherwise beside another."""
    return [chip.partition("The attack")[0] for chip in chips(page)]


def write(page: Page, text: str) -> None:
    """Key by key, and wait for the reading."""
    page.locator("#draft").press_sequentially(text)
    expect(page.locator(".chip")).to_have_count(len(page.input_value("#draft")))


def ask(page: Page, text: str) -> None:
    """Write, send, and wait for the end of the answer."""
    write(page, text)
    page.press("#draft", "Enter")
    expect(page.locator("#send")).to_be_visible()


def test_what_is_typed_is_read_before_anything_is_sent(page: Page, folder: Path) -> None:
    before, asked = charged(folder), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    write(page, "help")
    assert all("leaves as" in one and "with a posterior of" in one for one in chips(page))
    read = bits(page)
    assert page.locator(".chip svg path").count() == 4
    write(page, "ing")
    assert bits(page)[:4] == read
    expect(page.locator("#odds dd").first).to_contain_text("of 7")
    expect(page.locator("#epsilon")).to_contain_text("this message, 7 private tokens")
    assert page.locator("#read-as .word").count() == 7
    assert {address.rpartition("/")[2] for address in asked} == {"reading"}
    assert charged(folder) == before


def test_the_dial_turns_the_reading(page: Page) -> None:
    write(page, "help")
    before = {name: page.inner_text(f"#{name}") for name in ("epsilon", "verdict", "bytes", "mu-value")}
    page.focus("#mu")
    page.keyboard.press("End")
    expect(page.locator("#verdict")).to_have_attribute("data-protection", "little")
    expect(page.locator("#verdict")).to_contain_text("This setting protects little.")
    expect(page.locator("#mu-value")).to_have_text("mu 60")
    page.keyboard.press("Home")
    expect(page.locator("#verdict")).to_have_attribute("data-protection", "proven")
    page.check("#bits-8")
    expect(page.locator("#bytes")).not_to_have_text(before["bytes"])
    assert page.inner_text("#epsilon") != before["epsilon"]
    page.click("#default")
    expect(page.locator("#mu-value")).to_have_text(before["mu-value"])
    expect(page.locator("#verdict")).to_have_text(before["verdict"])


def test_an_answer_streams_and_is_accounted_for(page: Page, folder: Path) -> None:
    before = charged(folder)
    write(page, "helping")
    page.press("#draft", "Enter")
    expect(page.locator(".theirs[aria-busy=true]")).to_be_visible()
    expect(page.locator(".theirs .body")).not_to_be_empty()
    early = page.inner_text(".theirs .body")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#send")).to_be_visible()
    assert len(page.inner_text(".theirs .body")) > len(early)
    assert charged(folder) - before == 7
    expect(page.locator(".own .foot")).to_contain_text("7 tokens drawn")
    sent = page.locator("#sent")
    for said in (
        "time to first token",
        "tokens/s",
        f"{TOKENS} tokens",
        "charged for it",
        "given away today",
        "no limit",
    ):
        expect(sent).to_contain_text(said)
    ask(page, "more")
    assert charged(folder) - before == 11  # earlier bits are sent again, and cost nothing


def test_an_answer_is_stopped_and_the_chat_goes_on(page: Page, folder: Path, url: str) -> None:
    write(page, "helping")
    page.press("#draft", "Enter")
    expect(page.locator(".theirs .body")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(".theirs .foot")).to_contain_text("Stopped.")
    stopped = page.inner_text(".theirs .body")
    assert "del_gateway_answers 0.0" in _soon(url, "del_gateway_answers 0.0")
    assert page.inner_text(".theirs .body") == stopped
    known = "not part of what follows" not in page.inner_text(".theirs .foot")
    before = charged(folder)
    ask(page, "more")
    assert charged(folder) - before == 4
    assert known


def test_a_reload_keeps_nothing(page: Page) -> None:
    ask(page, "hi")
    write(page, "not sent")
    page.reload()
    expect(page.locator("#link")).to_have_attribute("data-state", "on")
    assert page.input_value("#draft") == ""
    assert page.locator(".bubble").count() == 0
    expect(page.locator("#welcome")).to_be_visible()
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie.length, caches.keys()]")
    assert kept == [0, 0, 0, {}]


def _soon(url: str, line: str) -> str:
    """The gateway's metrics, once they hold a line, or after a while."""
    text = ""
    for _ in range(100):
        with urllib.request.urlopen(f"{url}/metrics") as response:
            text = response.read().decode()
        if line in text:
            break
        time.sleep(0.05)
    return text
