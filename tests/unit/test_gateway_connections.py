"""Connections of the gateway whose callers say nothing, go on for ever, read nothing, or are too many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from client_fakes import FakeServer, TinyCodec, finish
from gateway_fakes import Gateway
from uvicorn import Config
from uvicorn.server import ServerState

from del_client.gateway.connection import Connection
from del_client.gateway.settings import GatewaySettings
from del_codec.v1 import inference_pb2 as pb

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
CONFIG = Config(lambda *_: None)  # type: ignore[arg-type]


@contextlib.contextmanager
def connected(url: str, receive_bytes: int | None = None) -> Iterator[socket.socket]:
    place = urlsplit(url)
    with socket.socket() as caller:
        if receive_bytes:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        caller.connect((place.hostname, place.port))
        yield caller


def closed(caller: socket.socket) -> bool:
    """Wait for the gateway to close; the test's own timeout ends it if it doesn't. True where it said nothing."""
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


def trickle(caller: socket.socket, pieces: Iterator[bytes]) -> bool:
    """Send piece after piece until the gateway has closed, which it does in the end."""
    caller.settimeout(0.02)
    try:
        for piece in pieces:
            caller.sendall(piece)
            try:
                if not caller.recv(1 << 16):
                    return True
            except TimeoutError:
                continue
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    yield start
    while True:
        yield piece


def answer(caller: socket.socket) -> bytes:
    """The answer to a request for /health."""
    data = b""
    while b"}" not in data:
        data += caller.recv(1 << 16)
    return data


class TestHeads:
    def test_a_connection_without_a_head_is_closed(self, codec: TinyCodec, tmp_path: Path) -> None:
        with Gateway(FakeServer(codec), codec, tmp_path, {"head_seconds": 0.2}) as url, connected(url) as caller:
            assert closed(caller)

    @pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"], ids=["first", "second"])
    def test_so_is_one_whose_head_never_ends(self, codec: TinyCodec, tmp_path: Path, before: bytes) -> None:
        with Gateway(FakeServer(codec), codec, tmp_path, {"head_seconds": 0.2}) as url, connected(url) as caller:
            if before:
                caller.sendall(before)
                assert answer(caller).startswith(b"HTTP/1.1 200")
            assert trickle(caller, endless(HEAD, b"X: y\r\n"))

    def test_and_one_whose_body_nobody_reads(self, codec: TinyCodec, tmp_path: Path) -> None:
        start = HEAD.replace(b"/health", b"/nowhere") + b"Content-Length: 1000000\r\n\r\n"
        with Gateway(FakeServer(codec), codec, tmp_path, {"head_seconds": 0.2}) as url, connected(url) as caller:
            assert trickle(caller, endless(start, b"x"))

    def test_an_answer_may_take_longer_than_a_head(self, codec: TinyCodec, tmp_path: Path) -> None:
        let = asyncio.Event()

        async def late(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            await let.wait()
            yield finish(query_id, requests)

        gateway = Gateway(FakeServer(codec, reply=late), codec, tmp_path, {"head_seconds": 0.2, "first_seconds": 0.05})
        with gateway as url, httpx.stream("POST", f"{url}{CHAT}", json=BODY | {"stream": True}) as response:
            with connected(url) as other:
                assert closed(other)  # so the time of a head has passed since the request's
            gateway.soon(let.set)
            assert "data: [DONE]" in list(response.iter_lines())


class TestNumber:
    def test_the_one_that_was_idle_for_longest_goes(self, codec: TinyCodec, tmp_path: Path) -> None:
        with (
            Gateway(FakeServer(codec), codec, tmp_path, {"most_connections": 2}) as url,
            connected(url) as first,
            connected(url) as second,
        ):
            for caller in (second, first):  # so that the second is idle for longer
                caller.sendall(HEAD + b"\r\n")
                answer(caller)
            with connected(url) as third:
                third.sendall(HEAD + b"\r\n")
                assert answer(third).startswith(b"HTTP/1.1 200")
            assert closed(second)
            first.sendall(HEAD + b"\r\n")
            assert answer(first).startswith(b"HTTP/1.1 200")

    def test_so_it_is_with_many_that_come_at_once(self, codec: TinyCodec, tmp_path: Path) -> None:
        gateway = Gateway(FakeServer(codec), codec, tmp_path, {"most_connections": 2})
        with gateway as url, contextlib.ExitStack() as callers:

            def connect() -> None:  # before any of them is accepted, since it is called where the gateway runs
                for _ in range(6):
                    callers.enter_context(connected(url))

            gateway.soon(connect)
            while gateway.connections != 2:
                time.sleep(0.005)

    def test_one_that_is_being_answered_stays(self, codec: TinyCodec, tmp_path: Path) -> None:
        let = asyncio.Event()

        async def late(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            await let.wait()
            yield finish(query_id, requests)

        gateway = Gateway(
            FakeServer(codec, reply=late), codec, tmp_path, {"most_connections": 1, "first_seconds": 0.05}
        )
        with gateway as url, httpx.stream("POST", f"{url}{CHAT}", json=BODY | {"stream": True}) as response:
            for _ in range(3):
                with connected(url) as other:
                    assert closed(other)
            gateway.soon(let.set)
            assert "data: [DONE]" in list(response.iter_lines())


class TestReaders:
    def test_one_that_takes_nothing_of_a_whole_answer_is_let_go(self, codec: TinyCodec, tmp_path: Path) -> None:
        async def much(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            for _ in range(500):
                yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[7], text="🙂" * 2000))
            yield finish(query_id, requests)

        gateway = Gateway(FakeServer(codec, reply=much), codec, tmp_path, {"reader_seconds": 0.2})
        data = json.dumps(BODY | {"n": 4}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with gateway as url, connected(url, receive_bytes=4096) as caller:
            caller.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            assert caller.recv(12) == b"HTTP/1.1 200"
            while gateway.connections:
                time.sleep(0.005)
            with contextlib.suppress(ConnectionResetError):
                assert sum(iter(lambda: len(caller.recv(1 << 20)), 0)) < 16_000_000

    def test_one_that_takes_some_of_it_is_waited_for(self) -> None:
        loop, transport = Timers(), Waiting()
        connection = Connection(CONFIG, ServerState(), {}, loop, settings=GatewaySettings())  # type: ignore[arg-type]
        connection.connection_made(transport)
        (head,) = loop.timers
        transport.waiting = 100
        connection.pause_writing()
        for left in (99, 98):
            transport.waiting = left
            loop.timers.pop().call()
            assert not transport.is_closing()
        timer = loop.timers.pop()
        connection.resume_writing()
        assert timer.cancelled
        connection.pause_writing()
        loop.timers.pop().call()
        assert transport.is_closing()
        assert loop.timers == [head]


@dataclass
class Timer:
    """What a loop is to call later."""

    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Timers:
    """A loop in which time passes when a test says so."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def time(self) -> float:
        return 0.0

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> Timer:
        self.timers.append(Timer(partial(call, *arguments)))
        return self.timers[-1]


class Waiting(asyncio.Transport):
    """A transport with so many bytes waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self._closing = 0, False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0  # or a small answer that is not taken would never be noticed

    def abort(self) -> None:
        self._closing = True

    def is_closing(self) -> bool:
        return self._closing
