"""The page in a real browser, before a server that says what a test wants: refusals, outages, hostile answers, keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import needs_chromium, opened
from client_fakes import FakeServer, TinyCodec
from gateway_fakes import Gateway, Saying
from playwright.sync_api import Browser, expect

from benchmarks.browser import chromium
from del_client.policy import Kind, Limit, Policy, UnitLimits

pytestmark = needs_chromium

TOKEN = "a-token-of-24-characters"
HOSTILE = (
    'Look: <img src="http://evil.example/x" onerror="document.title=1"> <b>bold</b> [here](javascript:alert(1)) '
    "![it](http://evil.example/y) http://evil.example/z **strong** `code`\n"
    "```html\n<script>document.title=1</script>\n```\n"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def gateway(codec: TinyCodec, folder: Path, *answers: str, **options: object) -> Gateway:
    return Gateway(FakeServer(codec, reply=Saying(*answers)), codec, folder, **options)  # type: ignore[arg-type]


def test_a_hostile_answer_stays_text(browser: Browser, codec: TinyCodec, tmp_path: Path) -> None:
    with gateway(codec, tmp_path, HOSTILE) as url, opened(browser, url) as page:
        page.fill("#draft", "Hello")
        page.press("#draft", "Enter")
        expect(page.locator(".bubble.own .foot p")).to_contain_text("epsilon")
        body = page.locator(".bubble.theirs .body")
        expect(body).to_contain_text('<img src="http://evil.example/x" onerror="document.title=1"> <b>bold</b>')
        expect(body).to_contain_text("[here](javascript:alert(1)) ![it](http://evil.example/y)")
        assert body.locator("*:not(strong, code, pre)").count() == 0
        assert body.locator("strong").all_inner_texts() == ["strong"]
        assert body.locator("pre").inner_text() == "<script>document.title=1</script>"


@pytest.mark.parametrize("unit", ["prompt", "day"])
def test_a_policys_refusal_is_shown_and_the_text_comes_back(
    browser: Browser, codec: TinyCodec, tmp_path: Path, unit: str
) -> None:
    policy = Policy(limits=UnitLimits(**{unit: Limit(rho=50)}))
    with gateway(codec, tmp_path, policy=policy) as url, opened(browser, url) as page:
        page.fill("#draft", "Hello there")
        page.press("#draft", "Enter")
        notice = page.get_by_role("alert")
        expect(notice).to_contain_text("Refused on this device. Nothing was sent.")
        expect(notice).to_contain_text(f"limits.{unit}.rho")
        expect(page.locator("#draft")).to_have_value("Hello there")
        assert page.locator(".bubble.theirs").count() == 0


def test_what_the_policy_protects_is_shown_and_how(browser: Browser, codec: TinyCodec, tmp_path: Path) -> None:
    policy = Policy(kinds={"email": Kind("email"), "phone": Kind("phone", mode="private", mu=2)})
    with gateway(codec, tmp_path, policy=policy) as url, opened(browser, url) as page:
        page.fill("#draft", "Ask ada@example.org or 020 7946 0958.")
        spans = page.locator("#spans li")
        expect(spans.filter(has_text="ada@example.org")).to_contain_text("nothing of it leaves; [EMAIL_1] does")
        expect(spans.filter(has_text="phone")).to_contain_text("noise of its own, mu 2")
        expect(page.locator(".chip[data-kind=stays]")).to_contain_text("stays here")
        assert page.locator(".chip[data-kind=noise]").count() == len("020 7946 0958")


def test_a_server_that_is_away_is_shown_and_found_again(browser: Browser, codec: TinyCodec, tmp_path: Path) -> None:
    running = gateway(codec, tmp_path, "back")
    with running as url:
        running.stop_server()
        with opened(browser, url, "off") as page:
            expect(page.locator("#glance")).to_contain_text("No server")
            page.fill("#draft", "Hello")
            expect(page.locator("#send")).to_be_disabled()
            running.start_server()
            expect(page.locator("#send")).to_be_enabled()
            running.stop_server()
            page.press("#draft", "Enter")
            expect(page.get_by_role("alert")).to_contain_text("The server can't be reached.")
            expect(page.locator("#link")).to_contain_text("Nothing can be sent; what you write is read all the same.")
            expect(page.locator("#draft")).to_have_value("Hello")
            page.fill("#draft", "Hello!")
            expect(page.locator("#chips li")).to_have_count(6)
            running.start_server()
            expect(page.locator("#link")).to_have_attribute("data-state", "on")
            page.fill("#draft", "Hello")
            page.press("#draft", "Enter")
            expect(page.locator(".theirs .body")).to_have_text("back")
            account = page.request.get(f"{url}/del/budget").json()
            assert account["today"]["tokens"] == len("Hello")  # its bits were drawn once


def test_a_token_is_asked_for_and_kept_in_memory(browser: Browser, codec: TinyCodec, tmp_path: Path) -> None:
    with (
        gateway(codec, tmp_path, settings={"token": TOKEN}) as url,
        opened(browser, url, "off") as page,
    ):
        page.get_by_label("This gateway wants its token").fill("a-wrong-token-of-30-characters")
        page.press("#token", "Enter")
        expect(page.locator("#link")).to_contain_text("Locked")
        page.get_by_label("This gateway wants its token").fill(TOKEN)
        page.press("#token", "Enter")
        expect(page.locator("#link")).to_have_attribute("data-state", "on")
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_everything_is_reached_by_keys_and_has_a_name(browser: Browser, codec: TinyCodec, tmp_path: Path) -> None:
    with gateway(codec, tmp_path) as url, opened(browser, url) as page:
        page.fill("#draft", "Hello")
        expect(page.locator("#chips li")).to_have_count(5)
        reached = []
        for _ in range(6):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert reached.index("send") < reached.index("mu") < reached.index("bits-1") < reached.index("chip")
        assert reached.count("chip") == 1  # one stop; arrows move within
        page.locator(".chip").first.focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#detail")).to_contain_text("“e” leaves as 2 bytes of bits")
        unnamed = page.evaluate(
            """[...document.querySelectorAll("button, input, textarea")].filter((one) => one.checkVisibility() &&
            !(one.textContent.trim() || one.ariaLabel || one.labels?.length)).map((one) => one.outerHTML)"""
        )
        assert unnamed == []


def test_a_first_visitor_is_told_what_it_costs_and_what_is_not_hidden(
    browser: Browser, codec: TinyCodec, tmp_path: Path
) -> None:
    with gateway(codec, tmp_path) as url, opened(browser, url) as page:
        welcome = page.locator("#welcome")
        for said in (
            "More noise means worse answers.",
            "The server sees the answer",
            "Not hidden: the chat's template",
        ):
            expect(welcome).to_contain_text(said)
        expect(page.locator(".legend")).to_contain_text("the guess is right: the token would be read")
        page.fill("#draft", "Hello {{Anna}}")
        expect(page.locator("#glance")).to_contain_text("an attack on single tokens would read")
        expect(page.locator("#glance")).to_contain_text("of 6; 1 span stays here")
        page.get_by_text("The words used here").click()
        for word in ("Token", "Bits", "Mu", "Attack", "Epsilon, delta"):
            expect(page.locator(".words dt", has_text=word).first).to_be_visible()


def test_characters_of_several_tokens_are_shown_whole(browser: Browser, codec: TinyCodec, tmp_path: Path) -> None:
    with gateway(codec, tmp_path, "é 😀 עברית ﷽") as url, opened(browser, url) as page:
        page.fill("#draft", "é😀")
        expect(page.locator(".chip .own")).to_have_text(["…", "é", "…", "…", "…", "😀"])
        page.press("#draft", "Enter")
        expect(page.locator(".own .body")).to_have_text("é😀")
        expect(page.locator(".theirs .body")).to_have_text("é 😀 עברית ﷽")


@pytest.mark.parametrize(("width", "shown"), [(390, False), (1280, True)])
def test_keys_are_spoken_of_where_there_are_any(
    browser: Browser, codec: TinyCodec, tmp_path: Path, width: int, shown: bool
) -> None:
    with gateway(codec, tmp_path) as url, opened(browser, url, viewport={"width": width, "height": 700}) as page:
        assert page.locator("#keys").is_visible() is shown


@pytest.mark.parametrize("width", [320, 390, 700, 1000, 1400])
def test_nothing_is_cut_off_at_any_width(browser: Browser, codec: TinyCodec, tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 700}
    with gateway(codec, tmp_path) as url, opened(browser, url, viewport=size) as page:
        page.fill("#draft", "A word and another")
        for view in ("#show-chat", "#show-leaves"):
            if page.locator(view).is_visible():
                page.click(view)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("document.getElementById('leaves').scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_the_light_and_in_the_dark(
    browser: Browser, codec: TinyCodec, tmp_path: Path, scheme: str
) -> None:
    with gateway(codec, tmp_path) as url, opened(browser, url, color_scheme=scheme) as page:
        page.fill("#draft", "Hello {{Anna}}")
        expect(page.locator("#chips li")).to_have_count(7)
        colours = page.evaluate(
            """["--ink", "--soft", "--accent", "--read", "--warn"].map((name) => {
              const probe = document.body.appendChild(document.createElement("i"));
              probe.style.color = `var(${name})`; probe.style.backgroundColor = "var(--ground)";
              const { color, backgroundColor } = getComputedStyle(probe);
              probe.remove();
              return [color, backgroundColor];
            })"""
        )
        for front, back in colours:
            assert _contrast(front, back) >= 4.5, (front, back)


def _contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two colours in rgb()."""
    low, high = sorted(_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
