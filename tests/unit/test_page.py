"""The page's files and what it asks of the gateway, without a browser."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from client_fakes import FakeServer, Serving, TinyCodec, client_arguments

from del_client import AsyncClient
from del_client.gateway.app import create_app
from del_client.gateway.link import Link
from del_client.gateway.settings import GatewaySettings
from del_client.policy import Limit, Policy, UnitLimits
from del_client.web.pages import page_files
from del_client.web.routes import open_paths, web_routes

TOKEN = "a-token-of-24-characters"
BASE = "http://127.0.0.1:8085"
POLICY = Policy(limits=UnitLimits(day=Limit(rho=5000)))


@pytest.fixture
async def link(codec: TinyCodec, tmp_path: Path) -> AsyncIterator[Link]:
    async with Serving(FakeServer(codec)) as address:
        link = Link(lambda: AsyncClient(address, policy=POLICY, **client_arguments(codec, tmp_path)))
        yield link
        await link.close()


def caller(link: Link, settings: GatewaySettings | None = None) -> httpx.AsyncClient:
    app = create_app(link, settings or GatewaySettings(), web_routes(), open_paths())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


async def reading(http: httpx.AsyncClient, draft: str, **fields: Any) -> dict[str, Any]:
    response = await http.post("/del/reading", json={"page": "one", "draft": draft, **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def drawn(reading: dict[str, Any]) -> list[str]:
    """Of each token the bits that were drawn for the eye."""
    return [chip["bits"] for chip in reading["chips"]]


async def test_every_file_is_served_with_a_policy_that_allows_its_own_alone(link: Link) -> None:
    async with caller(link) as http:
        for path, (media_type, text) in page_files().items():
            response = await http.get(path)
            assert (response.text, response.headers["content-type"].split(";")[0]) == (text, media_type)
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert not re.search(r"https?:|\*", policy)


def test_no_file_holds_inline_code_or_style_or_names_another_host() -> None:
    for path, (media_type, text) in page_files().items():
        assert not re.search(r"(?:src|href|from|import|url\()\s*=?\s*[\"'(]?\s*(?:https?:)?//", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|cookie", text)
        if media_type == "text/html":
            assert not re.search(r"\s(?:on\w+|style)=|<style|<script(?![^>]*\bsrc=)", text), path


def test_what_the_page_refers_to_is_there() -> None:
    files = page_files()
    for path, (_, text) in files.items():
        for name in re.findall(r"[\"'](/page/[\w.]+)[\"']", text):
            assert name in files, (path, name)
        for name in re.findall(r"from \"\./([\w.]+)\"", text):
            assert f"/page/{name}" in files, (path, name)
    page = files["/"][1]
    scripts = "".join(text for path, (_, text) in files.items() if path.endswith(".js"))
    for name in re.findall(r"byId\(\"([\w-]+)\"\)", scripts):
        assert f'id="{name}"' in page, name


async def test_the_dial_stands_at_the_devices_default(link: Link) -> None:
    async with caller(link) as http:
        facts = (await http.get("/del/dial")).json()
        assert (facts["model"], facts["default"], facts["trained"]) == ("tiny", {"mu": 8.0, "bits": 1}, [1, 40])
        assert [row["mu"] for row in facts["measured"]] == [5, 8, 9]
        assert (bool(facts["rule"]), facts["online"]) == (True, True)
    async with caller(link, GatewaySettings(options={"mu": 5, "bits": 2})) as http:
        facts = (await http.get("/del/dial")).json()
        assert (facts["default"], facts["rule"]) == ({"mu": 5.0, "bits": 2}, None)
        assert (await reading(http, "Hello"))["bits"] == 2


async def test_only_what_changed_is_drawn_again(link: Link) -> None:
    async with caller(link) as http:
        first = drawn(await reading(http, "Hello"))
        after = drawn(await reading(http, "Hello!"))
        assert (after[:5], len(after)) == (first, 6)
        assert drawn(await reading(http, "Hello", page="two")) != first
        turned = drawn(await reading(http, "Hello", **{"del": {"mu": 20, "bits": 4}}))
        assert [len(bits) // 2 for bits in (first[0], turned[0])] == [2, 6]  # of twelve coordinates


async def test_an_attackers_guess_is_text_that_moves_no_cursor(link: Link) -> None:
    async with caller(link) as http:
        chips = (await reading(http, "ab" * 300))["chips"]
        assert not any(ord(character) < 32 and character not in "\n\t" for chip in chips for character in chip["guess"])


async def test_a_draft_that_may_leave_in_the_clear_is_shown_to(link: Link) -> None:
    digest = hashlib.sha256(b"Hello").hexdigest()
    async with caller(link, GatewaySettings(public=frozenset({digest}))) as http:
        clear, private = [(await reading(http, draft))["tokens"]["private"] for draft in ("Hello", "Hello!")]
        assert (clear, private) == (0, 6)
        said = [{"role": "user", "content": "Hello"}]
        answer = (await http.post("/v1/chat/completions", json={"model": "tiny", "messages": said})).json()
        assert answer["del"]["private_tokens"] == 0


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"draft": "x"}, 400, "page"),
        ({"page": "p" * 65, "draft": "x"}, 400, "page"),
        ({"page": "p"}, 400, "draft"),
        ({"page": "p", "draft": 3}, 400, "draft"),
        ({"page": "p", "draft": "x", "del": {"mu": -1}}, 400, "del.mu"),
        ({"page": "p", "draft": "x", "del": {"bits": 9}}, 400, "del.bits"),
        ({"page": "p", "draft": "x", "earlier": "x"}, 400, "earlier"),
        ({"page": "p", "draft": "x", "earlier": [{"role": "system", "content": "x"}]}, 400, "earlier[0].role"),
        ({"page": "p", "draft": "x", "other": 1}, 400, "other"),
        ({"page": "p", "draft": "{{x"}, 400, "messages"),
        ({"page": "p", "draft": "x" * 2049}, 400, "draft"),
        ({"page": "p", "draft": "x", "earlier": [{"role": "user", "content": "x" * (1 << 16)}]}, 400, "draft"),
    ],
)
async def test_what_cant_be_read_is_refused_by_its_name(
    link: Link, fields: dict[str, Any], status: int, named: str
) -> None:
    async with caller(link) as http:
        response = await http.post("/del/reading", json=fields)
        assert (response.status_code, response.json()["error"]["param"]) == (status, named)


async def test_a_chat_is_known_once_it_was_answered(link: Link) -> None:
    said = [{"role": "user", "content": "Hello"}]
    async with caller(link) as http:
        assert not (await http.post("/del/known", json={"model": "tiny", "messages": said})).json()["known"]
        answer = (await http.post("/v1/chat/completions", json={"model": "tiny", "messages": said})).json()
        said.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        assert (await http.post("/del/known", json={"model": "tiny", "messages": said})).json()["known"]
        said[1]["content"] += " and more"
        assert not (await http.post("/del/known", json={"model": "tiny", "messages": said})).json()["known"]


async def test_the_budget_tells_what_today_cost_and_leaves(link: Link) -> None:
    async with caller(link) as http:
        before = (await http.get("/del/budget")).json()
        assert (before["today"], before["left"][0]["left"]) == (None, 5000)
        said = [{"role": "user", "content": "Hello"}]
        answer = (await http.post("/v1/chat/completions", json={"model": "tiny", "messages": said})).json()
        after = (await http.get("/del/budget")).json()
        assert (after["today"]["tokens"], after["today"]["epsilon"]) == (5, answer["del"]["epsilon_charged"])
        assert after["left"][0]["left"] == pytest.approx(5000 - after["today"]["rho"])


async def test_files_need_no_token_and_everything_else_does(link: Link) -> None:
    async with caller(link, GatewaySettings(host="0.0.0.0", token=TOKEN)) as http:
        assert (await http.get("/")).status_code == 200
        for path in ("/del/dial", "/del/budget"):
            assert (await http.get(path)).status_code == 401
        assert (await http.post("/del/reading", json={"page": "p", "draft": "x"})).status_code == 401
        shown = {"authorization": f"Bearer {TOKEN}"}
        assert (await http.get("/del/dial", headers=shown)).status_code == 200


async def test_texts_are_in_no_log(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with caller(link) as http:
            await reading(http, "a secret that nobody logs", earlier=[{"role": "user", "content": "another one"}])
            await http.post("/del/reading", json={"page": "p", "draft": "{{a secret that is not closed"})
    assert caplog.text
    assert "secret" not in caplog.text
    assert "another" not in caplog.text


async def test_without_a_server_there_is_nothing_to_read(codec: TinyCodec, tmp_path: Path) -> None:
    async with Serving(FakeServer(codec)) as address:
        pass
    link = Link(lambda: AsyncClient(address, connect_seconds=0.2, **client_arguments(codec, tmp_path)))
    async with caller(link) as http:
        assert (await http.get("/")).status_code == 200
        refused = await http.post("/del/reading", json={"page": "p", "draft": "x"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
