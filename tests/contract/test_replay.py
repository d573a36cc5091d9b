"""Bytes of a connection that somebody recorded, sent once more: to the server, and to a device in a server's place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from serving import Serving, StartServer, public

from benchmarks.certificates import Authority
from del_client.access import Access
from del_client.query import Finish, GenerationOptions, Limits, Query, TokenDelta
from del_client.transport import Transport
from del_codec.errors import UnavailableError
from del_codec.frame import PublicSegment

LIMITS = Limits(context_tokens=0, prompt_tokens=0, new_tokens=0, message_bytes=0, segments=0)
QUERY = Query("", (PublicSegment((5, 6, 7)),), GenerationOptions(max_new_tokens=8))


class Record:
    """What passed on a connection, both ways."""

    def __init__(self) -> None:
        self.asked, self.answered = bytearray(), bytearray()


@asynccontextmanager
async def listening(port: int, record: Record) -> AsyncIterator[int]:
    """A port that passes all on to another, and writes it down."""
    ways = set[asyncio.Task[None]]()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: bytearray) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1 << 14):
                to += chunk
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        ways.add(asyncio.create_task(copy(reader, there[1], record.asked)))
        ways.add(asyncio.create_task(copy(there[0], writer, record.answered)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*ways)


async def ask(port: int, access: Access) -> list[int]:
    transport = Transport(f"127.0.0.1:{port}", 5, access=access)
    came: list[int] = []
    try:
        async for event in transport.generate(QUERY, LIMITS):
            came += event.token_ids if isinstance(event, TokenDelta) else ()
            assert isinstance(event, TokenDelta | Finish)
    finally:
        await transport.close()
    return came


def queries(serving: Serving) -> float:
    return sum(serving.sample("queries_total", outcome=outcome) for outcome in ("stop", "length"))


async def replayed(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def test_a_query_in_plain_text_is_answered_once_more_and_leaves_nothing(start_server: StartServer) -> None:
    """A server keeps nothing of a query that it could know one again by; TLS is what stands before a replay."""
    record = Record()
    async with start_server(dtype="float32") as serving:
        async with listening(serving.port, record) as port:
            first = await ask(port, Access())
        for count in range(2, 5):
            reader, writer = await replayed(serving.port, bytes(record.asked))
            while queries(serving) < count:
                await asyncio.sleep(0.01)
            writer.close()
            await reader.read()
        assert queries(serving) == 4
        assert serving.sample("tokens_total", kind="generated") == 4 * len(first)
        talk = serving.talk()
        await talk.ask(1, [public(5, 6, 7)], options={"max_new_tokens": 8})
        assert (await talk.answer(1)).token_ids == first
        await talk.close()
        assert (serving.backend.admission.taken, serving.backend.engine.load().running) == (0, 0)


async def test_over_tls_a_replay_is_nothing_to_a_server(start_server: StartServer, tmp_path: Path) -> None:
    authority, record = Authority(tmp_path), Record()
    certificate, key = authority.issue("server")
    async with start_server(tls_cert=certificate, tls_key=key) as serving:
        async with listening(serving.port, record) as port:
            assert await ask(port, Access(tls_ca=authority.path))
        for size in (len(record.asked), len(record.asked) // 2, 600):
            reader, writer = await replayed(serving.port, bytes(record.asked[:size]))
            if size < len(record.asked):
                writer.write_eof()
            await reader.read()  # until the server hangs up
            writer.close()
        assert queries(serving) == 1
        assert await ask(serving.port, Access(tls_ca=authority.path))


async def test_over_tls_a_replay_is_no_answer_to_a_device(start_server: StartServer, tmp_path: Path) -> None:
    authority, record = Authority(tmp_path), Record()
    certificate, key = authority.issue("server")
    access = Access(tls_ca=authority.path)
    async with start_server(tls_cert=certificate, tls_key=key) as serving, listening(serving.port, record) as port:
        assert await ask(port, access)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(record.answered)
        with contextlib.suppress(OSError):
            await writer.drain()
            while await reader.read(1 << 14):
                pass
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(UnavailableError):
            await ask(server.sockets[0].getsockname()[1], access)
