"""Bad luck inside of a running server: memory that gives out, devices that vanish or read nothing; docs/faults.md."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_faults import StartEngine
from raw_http2 import GENERATE, RawConnection
from serving import Serving, StartServer, Talk, public
from test_hostile_client import add
from torch import Tensor

from benchmarks.bad_network import BadNetwork
from del_codec.errors import EngineError
from del_codec.v1 import inference_pb2 as pb
from del_server.engine import slots
from del_server.engine.base import Engine, Generation, Sampling, Token


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


class NoMemory:
    """Of the parts of keys and values that are made anew, one finds no memory: the one after `left` others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self._resized = slots._resized
        monkeypatch.setattr(slots, "_resized", self._resize)

    def _resize(self, part: Tensor, rows: int, tokens: int) -> Tensor:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return self._resized(part, rows, tokens)


def prompt(tokens: int) -> Tensor:
    return torch.randn(tokens, 32, generator=torch.Generator().manual_seed(tokens))


def ask(engine: Engine, tokens: int, most: int) -> Generation:
    return engine.submit(prompt(tokens), Sampling(most, ignore_eos=True))


async def tokens_of(generation: Any) -> list[int]:
    return [event.token_id async for event in generation if isinstance(event, Token)]


# The tiny model has four parts: a fifth is that of the next growth.
@pytest.mark.parametrize(("tokens", "left"), [(400, 0), (400, 4), (400, 6), (5, 1), (5, 3)])
async def test_memory_that_gives_out_fails_who_needs_more(
    start_transformers: StartEngine, monkeypatch: pytest.MonkeyPatch, tokens: int, left: int
) -> None:
    """A row too many, or a prompt too long: halfway through a growth, and at its begin."""
    async with start_transformers() as (engine, faults):
        alone = await tokens_of(ask(engine, 20, 50))
        memory, neighbour = NoMemory(monkeypatch), aiter(ask(engine, 20, 50))
        first = await anext(neighbour)
        faults.open.clear()
        memory.left = left
        other = ask(engine, tokens, 2)
        faults.open.set()
        with pytest.raises(EngineError, match="failed on this query"):
            await tokens_of(other)
        assert memory.left is None
        assert [first.token_id, *await tokens_of(neighbour)] == alone
        assert len(await tokens_of(ask(engine, tokens, 2))) == 2
        assert engine.health().ok


@pytest.mark.parametrize("left", [0, 1, 3])
async def test_memory_that_gives_out_while_some_is_given_back_fails_nobody(
    start_transformers: StartEngine, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    async with start_transformers() as (engine, _):
        alone = await tokens_of(ask(engine, 20, 50))
        memory, long, short = NoMemory(monkeypatch), aiter(ask(engine, 400, 30)), aiter(ask(engine, 20, 50))
        await anext(long)
        first = await anext(short)
        memory.left = left
        await tokens_of(long)
        assert [first.token_id, *await tokens_of(short)] == alone
        assert memory.left is None
        assert await tokens_of(ask(engine, 20, 50)) == alone
        assert engine.health().ok


async def test_what_vanished_devices_had_begun_is_freed(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More prompts that were never ended than there is room for, over one call after the other."""
    monkeypatch.setattr("del_server.app.LEAST_ROOM", 0)
    size, each = 1 << 19, 8
    async with start_server(max_concurrent=1) as serving:
        room = 2 * serving.backend.admission.places * serving.backend.limits.message_bytes
        opening = pb.OpenQuery(prompt_tokens=9, segments=[public(5)])
        for call in range(1, room // size // each + 2):
            talk = serving.talk()
            for query_id in range(each):
                await talk.send(query_id, open=opening, padding=bytes(size))
            await until(lambda call=call: received(serving) > call * each * size)
            assert not talk.replies
            talk.call.cancel()
            await asyncio.wait([talk._reader])
            await until(lambda call=call: ended(serving) == call * each)


def received(serving: Serving) -> float:
    return serving.sample("wire_bytes_total", direction="received", bits="0")


def ended(serving: Serving) -> float:
    """Queries that came to no answer."""
    return sum(serving.sample("queries_total", outcome=outcome) for outcome in ("abandoned", "refused"))


async def test_devices_that_read_nothing_are_let_go(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take all places; who reads is answered once they are let go."""
    monkeypatch.setattr("del_server.service.stream.UNREAD_SECONDS", 0.5)
    path = tmp_path / "tokens.json"
    ada, eve = add(path, "ada"), add(path, "eve")
    options = pb.GenerationOptions(max_new_tokens=500, ignore_eos=True, logprobs=20)
    opening = pb.OpenQuery(prompt_tokens=1, segments=[public(5)], options=options, end=True)
    message = pb.GenerateRequest(query_id=1, open=opening).SerializeToString()
    async with start_server(max_concurrent=1, tokens=path) as serving:
        connection = await RawConnection.open(serving.port)
        places = serving.backend.admission.slots
        for _ in range(places):
            stream = await connection.begin(GENERATE, eve)
            await connection.send(stream, struct.pack(">BI", 0, len(message)) + message)
        await until(lambda: serving.backend.admission.taken == places)
        talk = Talk(serving.stub.Generate(metadata=(("authorization", f"Bearer {ada}"),)))
        await talk.ask(1, [public(5)])
        assert len((await talk.answer(1)).token_ids) == 8
        await talk.close()
        await until(lambda: serving.backend.admission.taken == 0)
        assert serving.sample("queries_total", outcome="abandoned") == places
        await connection.close()


async def test_a_connection_that_is_half_open_is_given_up(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is gone and nobody told the server: its probe finds out."""
    monkeypatch.setattr("del_server.service.listening.PROBE_SECONDS", 1.0)
    monkeypatch.setattr("del_server.service.listening.ANSWER_SECONDS", 1.0)
    async with start_server() as serving, BadNetwork(f"127.0.0.1:{serving.port}") as network:
        connection = await RawConnection.open(int(network.address.rpartition(":")[2]))
        stream = await connection.begin(GENERATE)
        message = pb.GenerateRequest(query_id=1, open=pb.OpenQuery(prompt_tokens=9)).SerializeToString()
        await connection.send(stream, struct.pack(">BI", 0, len(message)) + message)
        await until(lambda: received(serving) > 0)
        network.stall()
        await until(lambda: ended(serving) == 1)
        await connection.close()
