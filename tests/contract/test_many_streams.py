"""256 streams at once through service and transport, over a stub engine: every token arrives, and nothing is kept."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.stub import stub_tokens, stubbed
from del_client.query import Finish, GenerationOptions, Limits, Query, TokenDelta
from del_client.transport import Transport
from del_codec.encode import encode
from del_codec.frame import PublicSegment, Segment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_server.config import ServeConfig

STREAMS = 256
NO_LIMITS = Limits(context_tokens=0, prompt_tokens=0, new_tokens=0, message_bytes=0, segments=0)
WARM_UP = 5
READINGS = 4


class Crowd:
    """Devices with a connection each. `prompts` are told apart by their lengths, queries by their seeds."""

    def __init__(self, transports: list[Transport], codec: LatentTable) -> None:
        self._transports, self._codec = transports, codec
        self._seeds = itertools.count()
        setting = NoiseSetting.from_mu(10, codec.spec.dim, 1)
        self.prompts: list[tuple[str, Segment]] = [
            (codec.fingerprint, encode(codec, range(3, 3 + length), setting))
            if length % 2
            else ("", PublicSegment(tuple(range(3, 3 + length))))
            for length in range(1, 33)
        ]

    async def ask_all(self, queries: int, new_tokens: int = 8) -> None:
        """So many queries of each device, one after the other; each answer must be its own, whole and in order."""
        await asyncio.gather(*(self._ask(transport, queries, new_tokens) for transport in self._transports))

    async def _ask(self, transport: Transport, queries: int, new_tokens: int) -> None:
        for _ in range(queries):
            seed = next(self._seeds)
            fingerprint, segment = self.prompts[seed % len(self.prompts)]
            query = Query(fingerprint, (segment,), GenerationOptions(max_new_tokens=new_tokens, seed=seed))
            expected = stub_tokens(seed, segment.tokens, new_tokens, self._codec.spec.vocabulary)
            ids: list[int] = []
            async for event in transport.generate(query, NO_LIMITS):
                if isinstance(event, TokenDelta):
                    ids += event.token_ids
                else:
                    assert isinstance(event, Finish)
                    assert event.usage.new_tokens == new_tokens
            assert ids == expected


@asynccontextmanager
async def crowd(tiny_model: Path, tiny_codec: Path, streams: int = STREAMS) -> AsyncIterator[Crowd]:
    from del_server.app import load, running

    config = ServeConfig(model=str(tiny_model), codecs=(tiny_codec,), port=0, device="cpu", drain_seconds=5.0)
    backend = stubbed(load(config))
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(running(backend, config))
        transports = [Transport(f"127.0.0.1:{port}", 30.0) for _ in range(streams)]
        for transport in transports:
            stack.push_async_callback(transport.close)
        yield Crowd(transports, backend.codecs[0].table)
        assert backend.admission.taken == 0
        assert backend.engine.load().running == 0


async def test_every_token_arrives_where_it_belongs(tiny_model: Path, tiny_codec: Path) -> None:
    async with crowd(tiny_model, tiny_codec) as devices:
        await devices.ask_all(queries=3)


async def test_queries_leave_nothing_behind(tiny_model: Path, tiny_codec: Path) -> None:
    await keeps_nothing(tiny_model, tiny_codec, streams=64, queries=8)


@pytest.mark.slow
async def test_ten_thousand_queries_leave_nothing_behind(tiny_model: Path, tiny_codec: Path) -> None:
    await keeps_nothing(tiny_model, tiny_codec, STREAMS, queries=40)


async def keeps_nothing(tiny_model: Path, tiny_codec: Path, streams: int, queries: int) -> None:
    """Each query that leaves something behind leaves a block of memory at least."""
    async with crowd(tiny_model, tiny_codec, streams) as devices:
        await devices.ask_all(WARM_UP, new_tokens=2)
        before = await blocks_held()
        await devices.ask_all(queries, new_tokens=2)
        assert await blocks_held() - before < queries * streams


async def blocks_held() -> int:
    """Blocks of memory that Python's objects take once the streams have come to rest: the least of READINGS."""
    readings = []
    for _ in range(READINGS):
        await asyncio.sleep(0.02)
        gc.collect()
        readings.append(sys.getallocatedblocks())
    return min(readings)
