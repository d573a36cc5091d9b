"""`python -m benchmarks.shaping`: what hiding the sizes and times of messages costs, as a Markdown table.

A real server with SmolLM2-135M-Instruct (its default model), and a proxy that counts TCP payload: a prompt of 256
private tokens at one bit, an answer of 64 tokens, on a warm stream; the median of a few queries.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, replace

from benchmarks.counting import CountingProxy
from benchmarks.server_process import running_server
from benchmarks.wire import NEW_TOKENS, NO_LIMITS, TOKENS, private_query
from del_client.query import PLAIN, Finish, Shaping
from del_client.transport import Transport
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

QUERIES = 3
SETTLE_SECONDS = 0.3
SHAPINGS = (
    ("off", PLAIN),
    ("bucket_bytes 64", Shaping(bucket_bytes=64)),
    ("bucket_bytes 512", Shaping(bucket_bytes=512)),
    ("tokens 8", Shaping(tokens=8)),
    ("tokens 8, bucket_bytes 256", Shaping(tokens=8, bucket_bytes=256)),
    (f"tokens {NEW_TOKENS}", Shaping(tokens=NEW_TOKENS)),
    ("interval_ms 100, bucket_bytes 256", Shaping(interval_ms=100, bucket_bytes=256)),
    ("interval_ms 250, bucket_bytes 512", Shaping(interval_ms=250, bucket_bytes=512)),
    ("interval_ms 1000, bucket_bytes 1024", Shaping(interval_ms=1000, bucket_bytes=1024)),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of TCP payload each way, seconds to the first token and to the end, tokens of the answer."""

    upstream: float
    downstream: float
    first: float
    whole: float
    tokens: int


async def measure(server: str) -> list[tuple[str, Cost]]:
    """All shapings in turn, on one connection."""
    table = LatentTable.load(codec_folders()[0] / DEVICE_FILE)
    async with CountingProxy(server) as proxy:
        transport = Transport(proxy.address, 5.0)
        await _ask(transport, proxy, table, PLAIN)  # warms stream and server
        rows = []
        for name, shaping in SHAPINGS:
            costs = [await _ask(transport, proxy, table, shaping) for _ in range(QUERIES)]
            rows.append((name, _median(costs)))
        await transport.close()
    return rows


async def _ask(transport: Transport, proxy: CountingProxy, table: LatentTable, shaping: Shaping) -> Cost:
    up, down, started, first, tokens = proxy.upstream, proxy.downstream, time.monotonic(), 0.0, 0
    async for event in transport.generate(replace(private_query(table), shaping=shaping), NO_LIMITS):
        first = first or time.monotonic() - started
        if isinstance(event, Finish):
            tokens = event.usage.new_tokens
    whole = time.monotonic() - started
    await asyncio.sleep(SETTLE_SECONDS)  # what is still on its way belongs to this query
    return Cost(proxy.upstream - up, proxy.downstream - down, first, whole, tokens)


def _median(costs: list[Cost]) -> Cost:
    def of(name: str) -> float:
        return statistics.median(getattr(cost, name) for cost in costs)

    return Cost(of("upstream"), of("downstream"), of("first"), of("whole"), round(of("tokens")))


def main() -> None:
    """Measure and print."""
    with running_server() as server:
        rows = asyncio.run(measure(server.address))
    print(f"{TOKENS} private tokens, then {NEW_TOKENS} at most:\n")
    print("| shaping | bytes up | bytes down | first token | whole answer | tokens |\n|---|---|---|---|---|---|")
    for name, cost in rows:
        print(
            f"| {name} | {cost.upstream:.0f} | {cost.downstream:.0f} | {cost.first:.2f} s | {cost.whole:.2f} s "
            f"| {cost.tokens} |"
        )


if __name__ == "__main__":
    main()
