"""Targets of the gateway: what it adds to the Python client's first token and pace, and how soon a caller's leaving
stops the model.

The pace is that of a server without a model that gives a token each five milliseconds, about as fast as a GPU does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from socket import socket
from urllib.parse import urlsplit

from benchmarks.page import reading_ms
from benchmarks.server_process import running_server, started
from benchmarks.target import Target
from del_client import AsyncClient

FIRST_ROUNDS, RATE_ROUNDS = 60, 10
FEW_TOKENS, MANY_TOKENS = 2, 64
STEP_MS = "5"
LEAVINGS = 5
READ_BEFORE_LEAVING = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds to an answer's first token, and tokens a second from there on."""

    first_seconds: float
    tokens_a_second: float


@cache
def paces() -> tuple[Pace, Pace]:
    """Of the Python client, and through the gateway.

    The quickest of several rounds, in each of which both are asked: what else runs on the machine only adds to them.
    """
    return asyncio.run(_paces())


async def _paces() -> tuple[Pace, Pace]:
    with (
        started("benchmarks.stub", "--step-ms", STEP_MS) as server,
        tempfile.TemporaryDirectory() as folder,
        _gateway(server.address, Path(folder)) as url,
    ):
        async with AsyncClient(server.address, ledger=Path(folder) / "client.sqlite3") as client:
            own, through = list[list[float]](), list[list[float]]()
            for tokens in [FEW_TOKENS] * FIRST_ROUNDS + [MANY_TOKENS] * RATE_ROUNDS:
                prompt = f"What helps against cold number {len(own)}?"
                own.append(await _times(_texts(client, prompt, tokens)))
                through.append(await _times(_contents(url, prompt, tokens)))
    return _quickest(own), _quickest(through)


def _quickest(rounds: list[list[float]]) -> Pace:
    rates = [(len(times) - 1) / (times[-1] - times[0]) for times in rounds[-RATE_ROUNDS:]]
    # The stub's tokens are any of the vocabulary's, and two of them need not have a text.
    return Pace(min(times[0] for times in rounds if times), max(rates))


async def _times(texts: AsyncIterator[None]) -> list[float]:
    """Seconds until each text."""
    start = time.perf_counter()
    return [time.perf_counter() - start async for _ in texts]


async def _texts(client: AsyncClient, prompt: str, tokens: int) -> AsyncIterator[None]:
    """One item for each delta with a text in it."""
    async for delta in client.generate(prompt, max_new_tokens=tokens):
        if delta.text:
            yield


async def _contents(url: str, prompt: str, tokens: int) -> AsyncIterator[None]:
    """One item for each chunk with a text in it; leaving the iterator closes the connection."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    asked = {"model": "*", "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": tokens}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                return
            if b'"delta":{"content":' in line:
                yield
            elif not line.startswith((b"data: {", b"HTTP/1.1 200")) and b"error" in line:
                raise RuntimeError(line.decode())
    finally:
        writer.close()


@contextlib.contextmanager
def _gateway(server: str, folder: Path) -> Iterator[str]:
    """The URL of `del-client gateway` before a server."""
    options = ("--port", "0", "--server", server, "--model", "*", "--ledger", str(folder / "gateway.sqlite3"))
    with started("del_client.cli", "gateway", *options) as process:
        yield process.address


def first_byte_ms() -> float:
    """Milliseconds that the gateway adds to the client's time to the first token."""
    own, gateway = paces()
    return 1000 * (gateway.first_seconds - own.first_seconds)


def rate() -> float:
    """Tokens a second through the gateway, over the client's."""
    own, gateway = paces()
    return gateway.tokens_a_second / own.tokens_a_second


def tokens_after_leaving() -> float:
    """Tokens that the model makes after those that a caller has read when it leaves: the median of LEAVINGS."""
    return asyncio.run(_after_leaving())


async def _after_leaving() -> float:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        running_server("--metrics-port", str(port)) as server,
        tempfile.TemporaryDirectory() as folder,
        _gateway(server.address, Path(folder)) as url,
    ):
        counts = [await _one_leaving(url, port, f"Tell me story number {number}.") for number in range(LEAVINGS)]
    return sorted(counts)[LEAVINGS // 2]


async def _one_leaving(url: str, port: int, prompt: str) -> float:
    before = await _ended(port)
    async with contextlib.aclosing(_contents(url, prompt, tokens=256)) as chunks:
        read = 0
        async for _ in chunks:
            read += 1
            if read == READ_BEFORE_LEAVING:
                break
    while (after := await _ended(port))[0] == before[0]:
        await asyncio.sleep(0.02)
    return after[1] - before[1] - read


async def _ended(port: int) -> tuple[float, float]:
    """Queries that were cancelled, and tokens generated in all that ended, by the server's metrics."""
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return (
        float(values['del_server_queries_total{outcome="cancelled"}']),
        float(values['del_server_tokens_total{kind="generated"}']),
    )


TARGETS = [
    Target("gateway.first_byte_over_client_ms", 3, "at most", first_byte_ms),
    Target("gateway.tokens_a_second_over_client", 0.95, "at least", rate),
    Target("gateway.tokens_after_leaving", 1, "at most", tokens_after_leaving),
    Target("gateway.reading_after_key_ms", 100, "at most", reading_ms),
]
