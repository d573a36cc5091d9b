"""What DEL's service and transport carry beside bare gRPC: token events a second of many streams, no model behind them.

Server and load are a process each. `carried` goes through a device's transport, the service, the codec's decoder and a
stub engine, whose tokens are there before they are asked for, so that several share a message unless the query
asks for one each; `bare` sends a message for each token through grpc.aio alone.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cache, partial

import grpc.aio

from benchmarks.server_process import started
from benchmarks.wire import NO_LIMITS
from del_client.query import GenerationOptions, Query, Shaping, TokenDelta
from del_client.transport import Transport
from del_client.transport.messages import requests
from del_codec.encode import encode
from del_codec.frame import PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc

STREAMS = 256
QUERIES = 4
TOKENS = 64
TURNS = 3
MU = 8.0
PROMPT = tuple(range(100, 100 + TOKENS))
Ask = Callable[[], Awaitable[int]]


def public_query() -> Query:
    """TOKENS public tokens, which no decoder sees."""
    return Query("", (PublicSegment(PROMPT),), GenerationOptions(max_new_tokens=TOKENS))


def message_query() -> Query:
    """As public_query, its tokens in a message each, though they be there already."""
    return replace(public_query(), shaping=Shaping(tokens=1))


def private_query(tokens: int = TOKENS) -> Query:
    """As many private tokens at one bit, for the shipped codec, whose decoder is a network; an answer of `tokens`."""
    table = shipped_table()
    setting = NoiseSetting.from_mu(MU, table.spec.dim, 1)
    return Query(table.fingerprint, (encode(table, PROMPT, setting),), GenerationOptions(max_new_tokens=tokens))


@cache
def shipped_table() -> LatentTable:
    """The device's half of the shipped codec."""
    return LatentTable.load(codec_folders()[0] / DEVICE_FILE)


async def carried(address: str, query: Query, streams: int = STREAMS) -> float:
    """Token events a second of that query through everything but a model."""
    async with AsyncExitStack() as stack:
        asks = []
        for _ in range(streams):
            transport = Transport(address, 30.0)
            stack.push_async_callback(transport.close)
            asks.append(partial(_through, transport, query))
        return await _events_a_second(asks)


async def bare(address: str, query: Query, streams: int = STREAMS) -> float:
    """Token events a second of the same messages alone."""
    (request,) = requests(1, query, 0)
    async with AsyncExitStack() as stack:
        asks = []
        for _ in range(streams):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            call = rpc.InferenceServiceStub(channel).Generate()
            stack.callback(call.cancel)
            asks.append(partial(_over, call, request))
        return await _events_a_second(asks)


async def _through(transport: Transport, query: Query) -> int:
    tokens = 0
    async for event in transport.generate(query, NO_LIMITS):
        if isinstance(event, TokenDelta):
            tokens += len(event.token_ids)
    return tokens


async def _over(
    call: grpc.aio.StreamStreamCall[pb.GenerateRequest, pb.GenerateResponse], request: pb.GenerateRequest
) -> int:
    await call.write(request)
    tokens = 0
    while isinstance(response := await call.read(), pb.GenerateResponse) and not response.HasField("finish"):
        tokens += len(response.delta.token_ids)
    return tokens


async def _events_a_second(asks: list[Ask]) -> float:
    """Each asks QUERIES times, all at once, after one time that warms its connection."""

    async def several(ask: Ask) -> int:
        return sum([await ask() for _ in range(QUERIES)])

    await asyncio.gather(*(ask() for ask in asks))
    started_at = time.perf_counter()
    tokens = await asyncio.gather(*map(several, asks))
    return sum(tokens) / (time.perf_counter() - started_at)


def carried_over_bare(query: Query) -> float:
    """Median of the ratios of TURNS turns of both, at STREAMS streams."""
    with started("benchmarks.stub") as stub, started("benchmarks.echo") as echo:
        ratios = [
            asyncio.run(carried(stub.address, query)) / asyncio.run(bare(echo.address, query)) for _ in range(TURNS)
        ]
    return statistics.median(ratios)
