"""Load on a server: devices that ask one answer after another, or prompts that arrive whatever the server does.

One asyncio process. Times of an answer count from when it was due, so that a late server can't hide behind a late
load. Knows nothing of what is measured with it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc

Request = Callable[[], pb.GenerateRequest]


@dataclass(slots=True)
class Sample:
    """One answer, in seconds since it was due; refused: the server's reason, "" for an answer that ended well.

    queue: by the server's clock, from the prompt's end to a place in the engine.
    """

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    whole: float = 0.0
    tokens: int = 0
    queue: float = 0.0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """All answers of a load, and the seconds from its begin to the last one's end."""

    samples: Sequence[Sample]
    seconds: float

    @property
    def answered(self) -> list[Sample]:
        """Those that ended well."""
        return [sample for sample in self.samples if not sample.refused]

    def throughput(self) -> float:
        """Tokens a second."""
        return sum(sample.tokens for sample in self.answered) / self.seconds

    def goodput(self, bound: float) -> float:
        """Tokens a second of answers whose first token came within `bound` seconds."""
        return sum(sample.tokens for sample in self.answered if sample.first <= bound) / self.seconds


class Devices:
    """Connections of so many devices to one server."""

    def __init__(self, stubs: Sequence[Any]) -> None:
        self._stubs = stubs

    async def closed(self, request: Request, each: int) -> Loaded:
        """Every device asks `each` times, one answer after the other; a refusal counts as an answer."""

        async def several(stub: Any) -> list[Sample]:
            return [await ask(stub, request(), time.perf_counter()) for _ in range(each)]

        started = time.perf_counter()
        samples = await asyncio.gather(*map(several, self._stubs))
        return Loaded([sample for some in samples for sample in some], time.perf_counter() - started)

    async def in_turn(self, request: Request) -> None:
        """Every device asks once, one after the other: gRPC's own server drops some calls of a thousand at once."""
        for stub in self._stubs:
            await ask(stub, request(), time.perf_counter())

    async def poisson(self, request: Request, rate: float, count: int, seed: int) -> Loaded:
        """`count` prompts, `rate` a second on average, at exponential intervals; devices take turns."""
        draw = random.Random(seed)
        started = due = time.perf_counter()
        asked = []
        for number in range(count):
            due += draw.expovariate(rate)
            await asyncio.sleep(due - time.perf_counter())
            asked.append(asyncio.create_task(ask(self._stubs[number % len(self._stubs)], request(), due)))
        return Loaded(await asyncio.gather(*asked), time.perf_counter() - started)


@asynccontextmanager
async def devices(address: str, count: int) -> AsyncIterator[Devices]:
    """So many, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        stubs = []
        for _ in range(count):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            await channel.channel_ready()
            stubs.append(rpc.InferenceServiceStub(channel))
        yield Devices(stubs)


async def ask(stub: Any, request: pb.GenerateRequest, due: float) -> Sample:
    """One query on a stream of its own."""
    sample, latest = Sample(), due
    async for response in stub.Generate(iter([request])):
        now = time.perf_counter()
        event = response.WhichOneof("event")
        if event == "delta" and not response.delta.token_ids:
            continue  # the rest of a text whose last token came before
        if event == "delta":
            if sample.tokens:
                sample.gaps.append(now - latest)
            else:
                sample.first = now - due
            sample.tokens += len(response.delta.token_ids)
            latest = now
        elif event == "finish":
            sample.queue = response.finish.timings.queue_us / 1e6
        else:
            sample.refused = response.error.reason
    sample.whole = time.perf_counter() - due
    return sample
