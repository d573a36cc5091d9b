"""Targets of the wire: what a device sends around its packed bits, as messages and as all that a connection carries."""

from __future__ import annotations

import asyncio

from benchmarks.canned import CannedServer
from benchmarks.counting import CountingProxy
from benchmarks.target import Target
from del_client.query import GenerationOptions, Limits, Query
from del_client.transport import Transport
from del_client.transport.messages import requests, wire_size
from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

TOKENS = 256
NEW_TOKENS = 64
MU = 11.0
QUERIES = 5
SETTLE_SECONDS = 0.5
NO_LIMITS = Limits(context_tokens=0, prompt_tokens=0, new_tokens=0, message_bytes=0, segments=0)


def private_query(table: LatentTable) -> Query:
    """TOKENS private tokens at one bit, and an answer of NEW_TOKENS."""
    segment = encode(table, list(range(100, 100 + TOKENS)), NoiseSetting.from_mu(MU, table.spec.dim, 1))
    return Query(table.fingerprint, (segment,), GenerationOptions(max_new_tokens=NEW_TOKENS))


def payload_bytes(query: Query) -> int:
    """The packed bits of a query from `private_query`."""
    return sum(len(segment.payload) for segment in query.segments)


def framing_share() -> float:
    """Bytes around the packed bits over the packed bits, in messages with gRPC's prefix of five bytes."""
    query = private_query(LatentTable.load(codec_folders()[0] / DEVICE_FILE))
    return sum(map(wire_size, requests(1, query, 0))) / payload_bytes(query) - 1


def upstream_over_payload() -> float:
    """All TCP payload towards the server over the packed bits, on a warm stream, until the answer has ended.

    HTTP/2 frames, window updates and answers to pings are in it. The mean of QUERIES, after one that warms.
    """
    return asyncio.run(_upstream())


async def _upstream() -> float:
    async with CannedServer() as server, CountingProxy(server.address) as proxy:
        transport = Transport(proxy.address, 5.0)
        sent = packed = 0
        for number in range(QUERIES + 1):
            query = private_query(server.table)
            before = proxy.upstream
            async for _ in transport.generate(query, NO_LIMITS):
                pass
            await asyncio.sleep(SETTLE_SECONDS)  # what is still on its way belongs to this query
            if number:
                sent += proxy.upstream - before
                packed += payload_bytes(query)
        await transport.close()
    return sent / packed


TARGETS = [
    Target("wire.framing_over_payload_256_tokens", 0.1, "at most", framing_share),
    Target("wire.upstream_over_payload_256_tokens", 1.15, "at most", upstream_over_payload),
]
