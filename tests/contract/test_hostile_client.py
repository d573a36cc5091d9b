"""Clients that keep no rules: what they hold of the server is bounded, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_http2 import GENERATE, RawConnection
from serving import Serving, StartServer, Talk, public

from benchmarks.certificates import Authority
from del_codec.v1 import inference_pb2 as pb
from del_server.access.quotas import STREAMS_OF_ONE
from del_server.access.token_file import change_tokens
from del_server.access.tokens import new_token
from del_server.access.visit import PASSING_OF_ONE
from del_server.app import LEAST_ROOM
from del_server.service.listening import most_connections

UNKNOWN, INVALID = grpc.StatusCode.UNKNOWN.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]
UNAUTHENTICATED, EXHAUSTED = grpc.StatusCode.UNAUTHENTICATED.value[0], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
CANCELLED = grpc.StatusCode.CANCELLED.value[0]
# Of a whole test with a server, a model and thousands of streams of a client in one process.
MEMORY = 512 << 20


def peak_memory() -> int:
    """Bytes that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def add(path: Path, name: str) -> str:
    text, token = new_token(name, "default", 1)
    change_tokens(path, lambda before: (*before, token))
    return text


async def is_served(serving: Serving, token: str = "") -> None:
    talk = Talk(serving.stub.Generate(metadata=(("authorization", f"Bearer {token}"),)))
    await talk.ask(1, [public(5)])
    assert len((await talk.answer(1)).token_ids) == 8
    await talk.close()


async def ended_with(code: int, connections: Sequence[RawConnection], count: int) -> None:
    """Wait until so many calls have ended, and no more: with this code, but for a few that gRPC drops by itself where
    hundreds come at once."""
    ended: Counter[int] = Counter()
    while ended.total() < count:
        await asyncio.sleep(0.01)
        ended = Counter(status for connection in connections for status in connection.statuses.values())
    assert ended.total() == count
    assert set(ended) <= {code, CANCELLED}
    assert ended[CANCELLED] < count / 20


@pytest.mark.parametrize("size", [2**32 - 1, 2**31, 1 << 22])
async def test_a_length_prefix_beyond_the_limit_allocates_nothing(start_server: StartServer, size: int) -> None:
    async with start_server() as serving:
        await is_served(serving)
        before = peak_memory()
        connection = await RawConnection.open(serving.port)
        for compressed in (0, 1):
            stream = await connection.begin(GENERATE)
            await connection.send(stream, struct.pack(">BI", compressed, size) + bytes(1000))
            await connection.until(lambda stream=stream: stream in connection.statuses)
            assert connection.statuses[stream] == EXHAUSTED
        assert peak_memory() - before < 64 << 20
        await is_served(serving)
        await connection.close()


async def test_a_message_that_unpacks_to_more_than_the_limit_takes_no_memory(start_server: StartServer) -> None:
    """Half a gigabyte of zeros in half a megabyte of gzip."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    assert len(packed) < 1 << 20
    async with start_server() as serving:
        await is_served(serving)
        before = peak_memory()
        connection = await RawConnection.open(serving.port)
        stream = await connection.begin(GENERATE, more=(("grpc-encoding", "gzip"),))
        await connection.send(stream, struct.pack(">BI", 1, len(packed)) + packed)
        await connection.until(lambda: stream in connection.statuses)
        assert connection.statuses[stream] == EXHAUSTED
        assert peak_memory() - before < 64 << 20
        await is_served(serving)
        await connection.close()


async def test_calls_that_are_reset_as_soon_as_they_begin(start_server: StartServer) -> None:
    async with start_server() as serving, AsyncExitStack() as stack:
        before = peak_memory()
        connections = [await RawConnection.open(serving.port) for _ in range(4)]
        for connection in connections:
            stack.push_async_callback(connection.close)
            for _ in range(1000):
                await connection.reset(await connection.begin(GENERATE))
            await is_served(serving)
        assert peak_memory() - before < MEMORY
        assert serving.backend.admission.taken == 0


@pytest.mark.parametrize("message", [b"", b"\x00\x00\x00\x00\x02\xff\xff"])
async def test_calls_of_one_message_that_bring_none(start_server: StartServer, message: bytes) -> None:
    service, health = GENERATE.rpartition("/")[0], "/grpc.health.v1.Health/Check"
    async with start_server() as serving:
        connection = await RawConnection.open(serving.port)
        for path in (*(f"{service}/{name}" for name in ("GetServerInfo", "Score", "DownloadCodec")), health):
            stream = await connection.begin(path)
            await connection.send(stream, message)
            await connection.end(stream)
            await connection.until(lambda stream=stream: stream in connection.statuses)
            assert connection.statuses[stream] == (UNKNOWN if message else INVALID)
        await is_served(serving)
        await connection.close()


async def test_garbage_in_place_of_messages_and_of_http2(start_server: StartServer) -> None:
    async with start_server() as serving:
        connection = await RawConnection.open(serving.port)
        for garbage in (b"\xff" * 100, b"\x00\x00\x00\x00\x04\xff\xff\xff\xff", b"\x01\x00\x00\x00\x04abcd", b"\x07"):
            stream = await connection.begin(GENERATE)
            await connection.send(stream, garbage)
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x00" * 10_000)
        await writer.drain()
        await reader.read()
        writer.close()
        await is_served(serving)
        assert serving.backend.engine.health().ok
        await connection.close()


@pytest.mark.parametrize("known", [True, False])
async def test_ten_thousand_half_open_streams(start_server: StartServer, tmp_path: Path, known: bool) -> None:
    """Headers and nothing more, over ten connections: by one with a token, and by one with none."""
    of_each = 1000
    path = tmp_path / "tokens.json"
    ada, eve = add(path, "ada"), add(path, "eve")
    async with start_server(tokens=path) as serving, AsyncExitStack() as stack:
        await is_served(serving, ada)
        gc.collect()
        before = peak_memory()
        connections = [await RawConnection.open(serving.port) for _ in range(10)]
        for connection in connections:
            stack.push_async_callback(connection.close)
            for _ in range(of_each):
                await connection.begin(GENERATE, eve if known else "")
            await is_served(serving, ada)
        streams, held = 10 * of_each, STREAMS_OF_ONE if known else 0
        await ended_with(EXHAUSTED if known else UNAUTHENTICATED, connections, streams - held)
        await is_served(serving, ada)
        assert peak_memory() - before < MEMORY


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_calls_that_need_no_token_take_no_place_of_those_who_show_one(
    start_server: StartServer, tmp_path: Path, method: str
) -> None:
    path = tmp_path / "tokens.json"
    ada = add(path, "ada")
    async with start_server(tokens=path) as serving, AsyncExitStack() as stack:
        connections = [await RawConnection.open(serving.port) for _ in range(4)]
        for connection in connections:
            stack.push_async_callback(connection.close)
            for _ in range(300):
                stream = await connection.begin(f"/grpc.health.v1.Health/{method}")
                if method == "Watch":
                    await connection.send(stream, bytes(5))
            await is_served(serving, ada)
        await ended_with(EXHAUSTED, connections, 1200 - PASSING_OF_ONE)
        await is_served(serving, ada)
        for connection in connections:
            await connection.close()
        health = health_pb2_grpc.HealthStub(serving.channel)
        answer = None
        while answer is None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_connections_that_say_nothing_are_closed(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before TLS has shaken hands, and after it without a call; not one whose call is silent."""
    monkeypatch.setattr("del_server.service.listening.HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr("del_server.service.listening.IDLE_SECONDS", 0.5)
    certificate, key = Authority(tmp_path).issue("server")
    async with start_server(tls_cert=certificate, tls_key=key) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        assert await reader.read() == b""
        writer.close()
    async with start_server() as serving:
        talk = serving.talk()
        await talk.open(1, 1)
        idle = await RawConnection.open(serving.port)
        await idle.greet()
        await idle.until(lambda: idle.closed)
        await talk.segments(1, public(5))
        await talk.end(1)
        assert len((await talk.answer(1)).token_ids) == 8
        await idle.close()
        await talk.close()


async def test_silent_connections_leave_those_that_stand_alone(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 8
    monkeypatch.setattr("del_server.service.listening.most_connections", lambda: most)
    async with start_server() as serving:
        await is_served(serving)
        silent = [await asyncio.open_connection("127.0.0.1", serving.port) for _ in range(3 * most)]
        greeted = [await reader.read(1) for reader, _ in silent]
        assert 0 < sum(map(bool, greeted)) < most
        await is_served(serving)
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize(("files", "most"), [(1024, 512), (1 << 30, 65_536), (resource.RLIM_INFINITY, 65_536)])
def test_there_are_fewer_connections_than_files(files: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    assert most_connections() == most


async def test_prompts_that_never_end_have_bounded_memory(start_server: StartServer) -> None:
    """Megabytes of padding in messages of queries that stay open: the caller's room ends before the server's."""
    size = 1 << 20
    async with start_server(max_concurrent=1) as serving:
        talks = [serving.talk() for _ in range(4)]
        padding, opened = bytes(size - 200), 0
        for talk in talks:
            for query_id in range(64):
                segments = [public(5)]
                opening = pb.OpenQuery(prompt_tokens=500, segments=segments)
                await talk.send(query_id, open=opening, padding=padding)
                opened += 1
        refused = [error for talk in talks for reply in talk.replies.values() for error in reply.errors]
        while len(refused) < opened - LEAST_ROOM // 2 // (size - 200) - 1:
            await asyncio.sleep(0.01)
            refused = [error for talk in talks for reply in talk.replies.values() for error in reply.errors]
        assert {error.reason for error in refused} == {"SERVER_FULL"}
        for talk in talks:
            talk.call.cancel()
        await asyncio.wait([talk._reader for talk in talks])
        await is_served(serving)
