"""Streams of the gateway when callers leave, lag or are many."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from client_fakes import FakeServer, TinyCodec, finish, hello, segments_of
from gateway_fakes import Gateway

from del_client import Patience
from del_codec.v1 import inference_pb2 as pb

STREAMS = 32
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def delta(query_id: int, text: str) -> pb.GenerateResponse:
    return pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[7], text=text))


class Steps:
    """A server that decodes a token whenever it is let, and says how many it did."""

    def __init__(self, at_once: int) -> None:
        self.decoded = 0
        self._let = asyncio.Semaphore(at_once)

    async def __call__(self, query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
        while True:
            await self._let.acquire()
            self.decoded += 1
            yield delta(query_id, "x")


def until(condition: Any) -> None:
    """Wait for what has to come; the test's own timeout ends it if it doesn't."""
    while not condition():
        time.sleep(0.005)


def cancelled(server: FakeServer) -> list[bool]:
    """Of each query, whether its cancellation has come."""
    return [any(one.HasField("cancel") for one in asked) for asked in server.streams[-1].values()]


class TestLeaving:
    @pytest.mark.parametrize(("stream", "tokens"), [(True, 3), (True, 0), (False, 3), (False, 0)])
    def test_a_caller_that_leaves_has_its_answers_cancelled_without_another_token(
        self, codec: TinyCodec, tmp_path: Path, stream: bool, tokens: int
    ) -> None:
        steps = Steps(at_once=tokens)
        server = FakeServer(codec, reply=steps)
        with Gateway(server, codec, tmp_path) as url, leaving(url, BODY | {"stream": stream, "n": 1}) as caller:
            until(lambda: server.streams and server.streams[-1] and steps.decoded == tokens)
            if stream and tokens:
                caller.recv(1)
            caller.close()
            until(lambda: cancelled(server) == [True])
            assert steps.decoded == tokens
            until(lambda: "del_gateway_answers 0.0" in httpx.get(f"{url}/metrics").text)
            assert "del_gateway_left_total 1.0" in httpx.get(f"{url}/metrics").text

    @pytest.mark.parametrize("got", ["xxx", "xx"])
    def test_what_there_was_of_an_answer_may_be_gone_on_from(self, codec: TinyCodec, tmp_path: Path, got: str) -> None:
        server = FakeServer(codec, reply=Steps(at_once=3))
        with Gateway(server, codec, tmp_path) as url:
            with leaving(url, BODY | {"stream": True}) as caller:
                until(lambda: got_three(caller))
            until(lambda: cancelled(server) == [True])
            until(lambda: "del_gateway_answers 0.0" in httpx.get(f"{url}/metrics").text)
            server.reply = hello
            more = [*BODY["messages"], {"role": "assistant", "content": got}, {"role": "user", "content": "more"}]
            found = httpx.post(f"{url}/v1/chat/completions", json=BODY | {"messages": more}).json()
            assert found["del"]["charged_tokens"] == len("more")
            ids = [token for segment in segments_of(server.requests(2)) for token in segment.public.token_ids]
            assert ids.count(7) == len(got)  # the very ids that the server sent

    def test_all_choices_are(self, codec: TinyCodec, tmp_path: Path) -> None:
        server = FakeServer(codec, reply=Steps(at_once=3))
        with Gateway(server, codec, tmp_path) as url, leaving(url, BODY | {"stream": True, "n": 3}) as caller:
            until(lambda: server.streams and len(server.streams[-1]) == 3)
            caller.close()
            until(lambda: cancelled(server) == [True] * 3)


def got_three(caller: socket.socket) -> bool:
    return caller.recv(1 << 16, socket.MSG_PEEK).count(b'"content":"x"') == 3


def leaving(url: str, body: dict[str, Any], receive_bytes: int | None = None) -> socket.socket:
    """The socket of a caller that has just asked."""
    place = urlsplit(url)
    caller = socket.socket()
    if receive_bytes:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    caller.connect((place.hostname, place.port))
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    caller.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return caller


class TestManyAndSlow:
    def test_a_slow_reader_holds_nobody_up_and_is_let_go(self, codec: TinyCodec, tmp_path: Path) -> None:
        whole: list[int] = []

        async def much(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            for _ in range(2000):  # more messages than a lagging reader of the stream is granted, and 4 MB of text
                yield delta(query_id, "🙂" * 500)
            yield finish(query_id, requests)
            whole.append(query_id)

        server = FakeServer(codec, reply=much)
        settings = {"reader_seconds": 0.3}
        with Gateway(server, codec, tmp_path, settings) as url, leaving(url, BODY | {"stream": True}, 4096) as slow:
            slow.recv(1)
            quick = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=60).json()
            assert len(quick["choices"][0]["message"]["content"]) == 1_000_000
            assert sorted(whole) == [1, 2]
            until(lambda: "del_gateway_answers 0.0" in httpx.get(f"{url}/metrics").text)
            assert "del_gateway_left_total 1.0" in httpx.get(f"{url}/metrics").text

    async def test_32_streams_at_the_same_time(self, codec: TinyCodec, tmp_path: Path) -> None:
        running = 0
        all_run = asyncio.Event()

        async def wait_for_all(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            nonlocal running
            yield delta(query_id, "a")
            running += 1
            if running == STREAMS:
                all_run.set()
            await all_run.wait()
            yield delta(query_id, "b")
            yield finish(query_id, requests)

        async def read(http: httpx.AsyncClient, number: int) -> str:
            asked = BODY | {"stream": True, "user": str(number)}
            async with http.stream("POST", "/v1/chat/completions", json=asked) as response:
                lines = [line async for line in response.aiter_lines() if line.startswith("data: {")]
            choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
            return "".join(choice["delta"].get("content", "") for choice in choices)

        with Gateway(FakeServer(codec, reply=wait_for_all), codec, tmp_path) as url:
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                texts = await asyncio.gather(*(read(http, number) for number in range(STREAMS)))
        assert texts == ["ab"] * STREAMS

    def test_a_silent_stream_gives_signs_of_life(self, codec: TinyCodec, tmp_path: Path) -> None:
        told = asyncio.Event()

        async def late(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            await told.wait()
            yield delta(query_id, "x")
            yield finish(query_id, requests)

        gateway = Gateway(FakeServer(codec, reply=late), codec, tmp_path, {"ping_seconds": 0.05, "first_seconds": 0.05})
        with (
            gateway as url,
            httpx.stream("POST", f"{url}/v1/chat/completions", json=BODY | {"stream": True}) as response,
        ):
            lines = response.iter_lines()
            assert any(line.startswith(": ping") for line in lines)
            gateway.soon(told.set)
            assert "data: [DONE]" in list(lines)


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_goes_away_is_a_503_and_is_met_again(codec: TinyCodec, tmp_path: Path, stream: bool) -> None:
    gateway = Gateway(FakeServer(codec), codec, tmp_path, patience=Patience(0.1, 0.01, 0.1))
    with gateway as url:
        assert httpx.post(f"{url}/v1/chat/completions", json=BODY).status_code == 200
        gateway.stop_server()
        refused = httpx.post(f"{url}/v1/chat/completions", json=BODY | {"stream": stream})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        gateway.start_server()
        until(lambda: httpx.post(f"{url}/v1/chat/completions", json=BODY).status_code == 200)
