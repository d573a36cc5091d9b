"""How a server's work grows with streams, its memory with connected devices, a conversation's cost with its turns."""

from __future__ import annotations

import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.batching import Bench
from benchmarks.growth_local import BYTES, MESSAGES, TIME
from benchmarks.load import Loaded, Request, devices
from benchmarks.report.results import Recorder
from benchmarks.server_process import ServerProcess, started
from benchmarks.service_loop import public_request
from del_client import Client

STREAMS, CONNECTED, TURN = "streams", "connected devices", "turn"
THROUGHPUT, ANSWER, MEMORY, SHARED = "throughput", "time of an answer", "memory", "CPU time a token"
SETTLED = 1024
SERVER, STUB = "server: SmolLM2-135M", "server without a model"
DEVICE, DOWN, SO_FAR = "device: a turn", "bytes down a token", "messages up, all turns so far"
PROMPT = 64
WORDS = "and what about the one that we were told of last week by the people next door, the day before it rained? "


def by_streams(server: ServerProcess, bench: Bench, streams: int, tokens: int, record: Recorder) -> None:
    """So many streams at once, an answer each, from a real model."""
    loaded, spent = _spent(server, streams, partial(bench.request, PROMPT, tokens))
    record.add(THROUGHPUT, loaded.throughput(), "tokens/s", "higher", SERVER, {STREAMS: streams})
    for sample in loaded.answered:
        record.add(ANSWER, sample.whole, "s", "lower", SERVER, {STREAMS: streams})
    record.add(SHARED, spent, "s", "lower", SERVER, {STREAMS: streams})


def by_streams_without_model(server: ServerProcess, streams: int, tokens: int, record: Recorder) -> None:
    """The same of a server that has no model: what service and gRPC take."""
    _, spent = _spent(server, streams, partial(public_request, tokens))
    record.add(SHARED, spent, "s", "lower", STUB, {STREAMS: streams})


def _spent(server: ServerProcess, streams: int, request: Request) -> tuple[Loaded, float]:
    """A load, and the CPU seconds of the server for each token of it."""

    async def load() -> Loaded:
        async with devices(server.address, streams) as many:
            return await many.closed(request, 1)

    before = server.cpu_seconds()
    loaded = asyncio.run(load())
    tokens = sum(sample.tokens for sample in loaded.answered)
    if len(loaded.answered) < streams:
        raise SystemExit(f"the server refused {streams - len(loaded.answered)} of {streams} streams")
    return loaded, (server.cpu_seconds() - before) / tokens


def by_connected(count: int, record: Recorder) -> None:
    """Resident memory that a server without a model takes beyond what it had, for devices that stay after an answer.

    One of its own, that has answered one device SETTLED times before: meanwhile its heap gives back what loading took.
    """

    async def connected(server: ServerProcess, count: int, each: int) -> int:
        async with devices(server.address, count) as many:
            for _ in range(each):
                await many.in_turn(partial(public_request, 1))
            return server.resident_bytes()

    with started("benchmarks.stub") as server:
        before = asyncio.run(connected(server, 1, SETTLED))
        record.add(MEMORY, asyncio.run(connected(server, count, 1)) - before, "B", "lower", STUB, {CONNECTED: count})


def conversation(server: ServerProcess, turns: tuple[int, ...], tokens: int, record: Recorder) -> None:
    """One conversation, looked at after some of its turns; all earlier turns go up again with each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        with Client(server.address, ledger=path) as client:
            talk = client.conversation(max_new_tokens=tokens)
            so_far = 0
            for turn in range(1, max(turns) + 1):
                started = time.process_time()
                answer = talk.generate(WORDS)
                for _ in answer:
                    pass
                spent = time.process_time() - started
                so_far += answer.wire_bytes
                if turn in turns:
                    at = {TURN: turn}
                    record.add(TIME, spent, "s", "lower", DEVICE, at)
                    record.add(BYTES, answer.wire_bytes, "B", "lower", MESSAGES, at)
                    record.add(BYTES, so_far, "B", "lower", SO_FAR, at)
                    record.add(DOWN, answer.usage.sent_bytes / tokens, "B", "lower", DEVICE, at)
