"""Who the gateway answers at all: by Host, Origin and token; and what every answer's headers say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2 as httpx
import pytest
from client_fakes import FakeServer, Serving, TinyCodec, client_arguments
from starlette.requests import Request
from starlette.routing import Route

from del_client import AsyncClient
from del_client.gateway.app import create_app
from del_client.gateway.link import Link
from del_client.gateway.settings import GatewaySettings, read_digests, read_token
from del_codec.errors import InvalidValue

TOKEN = "a-token-of-24-characters"
BASE = "http://127.0.0.1:8085"


@pytest.fixture
async def link(codec: TinyCodec, tmp_path: Path) -> AsyncIterator[Link]:
    async with Serving(FakeServer(codec)) as address:
        link = Link(lambda: AsyncClient(address, **client_arguments(codec, tmp_path)))
        yield link
        await link.close()


def caller(link: Link, settings: GatewaySettings | None = None) -> httpx.AsyncClient:
    app = create_app(link, settings or GatewaySettings())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


async def test_models_are_listed_and_found_by_name(link: Link) -> None:
    async with caller(link, GatewaySettings(models=("gpt-4o-mini",))) as http:
        listed = (await http.get("/v1/models")).json()
        assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["tiny", "gpt-4o-mini"])
        assert (await http.get("/v1/models/tiny")).json() == listed["data"][0]
        missing = await http.get("/v1/models/some/other")
        assert missing.status_code == 404
        assert missing.json()["error"] | {"message": ""} == {
            "message": "", "type": "invalid_request_error", "param": "model", "code": "model_not_found",
        }  # fmt: skip


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8085",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "0.0.0.0",
        "evil@127.0.0.1",
        "127.0.0.1/evil",
        "[127.0.0.1",
        "127.0.0.1:",
    ],
)
async def test_a_foreign_host_header_is_refused(link: Link, host: str) -> None:
    async with caller(link) as http:
        response = await http.get("/v1/models", headers={"host": host})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost:8085", "127.0.0.1", "[::1]:8085", "LOCALHOST", "my-device.lan"])
async def test_own_names_are_answered(link: Link, host: str) -> None:
    async with caller(link, GatewaySettings(names=("My-Device.lan",))) as http:
        assert (await http.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
async def test_another_sites_pages_are_refused_and_told_nothing(link: Link, headers: dict[str, str]) -> None:
    async with caller(link) as http:
        for method in ("GET", "POST", "OPTIONS"):
            response = await http.request(method, "/v1/models", headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
            assert not [name for name in response.headers if name.startswith("access-control")]


async def test_an_own_page_is_answered(link: Link) -> None:
    async with caller(link) as http:
        response = await http.get("/v1/models", headers={"origin": BASE, "sec-fetch-site": "same-origin"})
        assert response.status_code == 200


async def test_the_token_is_asked_for_everywhere_but_health(link: Link) -> None:
    async with caller(link, GatewaySettings(host="0.0.0.0", token=TOKEN)) as http:
        assert (await http.get("/health")).status_code == 200
        for shown in (
            {},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": TOKEN},
            {"authorization": "Bearer é"},
        ):
            refused = await http.get("/v1/models", headers={name: text.encode() for name, text in shown.items()})
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert (await http.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200


async def test_every_answer_forbids_to_load_or_frame_anything(link: Link) -> None:
    async with caller(link) as http:
        for path in ("/health", "/nowhere"):
            headers = (await http.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
            assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


async def test_so_does_the_answer_when_something_unforeseen_fails(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(request: Request) -> None:
        raise ZeroDivisionError("what was asked")

    app = create_app(link, GatewaySettings(), routes=[Route("/fails", fails)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app, False), base_url=BASE) as http:
        answer = await http.get("/fails")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "what was asked" not in answer.text
    assert (answer.headers["x-frame-options"], answer.headers["cache-control"]) == ("DENY", "no-store")
    assert len(caplog.records) == 1


async def test_no_route_and_no_method_get_errors_of_the_same_shape(link: Link) -> None:
    async with caller(link) as http:
        for response in (await http.get("/nowhere"), await http.delete("/v1/models")):
            assert response.status_code in (404, 405)
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
            assert "use POST /v1/chat/completions" in response.json()["error"]["message"]


async def test_without_a_server_there_is_a_503_and_later_an_answer(codec: TinyCodec, tmp_path: Path) -> None:
    async with Serving(FakeServer(codec)) as address:
        pass
    link = Link(lambda: AsyncClient(address, **client_arguments(codec, tmp_path)))
    async with caller(link) as http:
        assert (await http.get("/health")).json() == {"status": "ok", "connected": False}
        away = await http.get("/v1/models")
        assert (away.status_code, away.json()["error"]["code"]) == (503, "server_unavailable")
        assert int(away.headers["retry-after"]) >= 1
        async with Serving(FakeServer(codec), int(address.rpartition(":")[2])):
            assert (await http.get("/v1/models")).status_code == 200
            await link.close()


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"host": "0.0.0.0"}, "host"),
            ({"host": "::"}, "host"),
            ({"host": "my device"}, "host"),
            ({"port": 65536}, "port"),
            ({"host": "0.0.0.0", "token": "short"}, "token"),
        ],
    )
    def test_what_would_be_open_or_senseless_is_refused(self, changes: dict[str, object], field: str) -> None:
        with pytest.raises(InvalidValue) as refused:
            GatewaySettings(**changes)  # type: ignore[arg-type]
        assert refused.value.field == field

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
    def test_loopback_needs_no_token(self, host: str) -> None:
        assert GatewaySettings(host=host).token is None

    def test_files_of_tokens_and_digests(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text(f"{TOKEN}\n")
        assert read_token(file) == TOKEN
        digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        file.write_text(f"# said to everyone\n{digest.upper()}  -\n\n")
        assert GatewaySettings(public=read_digests(file)).is_public("hello")
        for text in ("two words", "", "\xff"):
            file.write_bytes(text.encode("latin-1"))
            for read in (read_token, read_digests):
                if text or read is read_token:
                    with pytest.raises(InvalidValue):
                        read(file)
        with pytest.raises(InvalidValue, match="can't be read"):
            read_token(tmp_path / "absent")
