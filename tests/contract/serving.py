"""A client of plain messages for tests of the service: a stream request by request, and what came back."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc

from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb
from del_server.backend import Backend

PREFIX = 5


@dataclass
class Reply:
    """What came back for one query."""

    deltas: list[pb.TokenDelta] = field(default_factory=list)
    finish: pb.FinishedQuery | None = None
    errors: list[pb.QueryError] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def received_bytes(self) -> int:
        return sum(self.sizes)

    @property
    def token_ids(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


class Talk:
    """One Generate stream, request by request."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.replies: defaultdict[int, Reply] = defaultdict(Reply)
        self.sent_bytes: defaultdict[int, int] = defaultdict(int)
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def send(self, query_id: int, **event: Any) -> None:
        request = pb.GenerateRequest(query_id=query_id, **event)
        self.sent_bytes[query_id] += request.ByteSize() + PREFIX
        await self.call.write(request)

    async def open(self, query_id: int, tokens: int, **fields: Any) -> None:
        options = pb.GenerationOptions(**fields.pop("options", {"max_new_tokens": 8, "ignore_eos": True}))
        await self.send(query_id, open=pb.OpenQuery(prompt_tokens=tokens, options=options, **fields))

    async def segments(self, query_id: int, *segments: pb.Segment) -> None:
        await self.send(query_id, segments=pb.SegmentChunk(segments=segments))

    async def end(self, query_id: int) -> None:
        await self.send(query_id, end=pb.EndPrompt())

    async def cancel(self, query_id: int) -> None:
        await self.send(query_id, cancel=pb.CancelQuery())

    async def ask(self, query_id: int, segments: Sequence[pb.Segment], **fields: Any) -> None:
        """A whole query."""
        await self.open(query_id, sum(map(tokens_in, segments)), **fields)
        await self.segments(query_id, *segments)
        await self.end(query_id)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(lambda: condition() or self._reader.done())
        if not condition():
            await self._reader
            raise RuntimeError("the stream ended first")

    async def answer(self, query_id: int) -> Reply:
        """Wait for the query's finish; raises its error as a RuntimeError."""
        reply = self.replies[query_id]
        await self.until(lambda: bool(reply.finish or reply.errors))
        if reply.errors:
            raise RuntimeError(str(reply.errors))
        return reply

    async def error(self, query_id: int) -> pb.QueryError:
        """Wait for the query's first error and take it."""
        reply = self.replies[query_id]
        await self.until(lambda: bool(reply.errors))
        assert reply.finish is None
        return reply.errors.pop(0)

    async def close(self) -> None:
        """Close our side and wait for the server's."""
        await self.call.done_writing()
        await self.closed()

    async def closed(self) -> None:
        """Wait for the server to end the stream."""
        await self._reader

    async def _read(self) -> None:
        try:
            async for response in self.call:
                reply = self.replies[response.query_id]
                reply.sizes.append(response.ByteSize() + PREFIX)
                event = response.WhichOneof("event")
                if event == "delta":
                    reply.deltas.append(response.delta)
                elif event == "finish":
                    reply.finish = response.finish
                elif event == "error":
                    reply.errors.append(response.error)
                async with self._news:
                    self._news.notify_all()
        finally:
            async with self._news:
                self._news.notify_all()


def tokens_in(segment: pb.Segment) -> int:
    return segment.private.tokens if segment.HasField("private") else len(segment.public.token_ids)


def public(*token_ids: int) -> pb.Segment:
    return pb.Segment(public=pb.PublicSegment(token_ids=token_ids))


@dataclass
class Serving:
    """A running server and a channel to it; `stop` drains it."""

    backend: Backend
    stub: Any
    channel: grpc.aio.Channel
    stop: Callable[[], Awaitable[None]]
    port: int

    def talk(self) -> Talk:
        return Talk(self.stub.Generate())

    @property
    def fingerprint(self) -> bytes:
        return bytes.fromhex(self.backend.codecs[0].fingerprint)

    def private(self, *token_ids: int, bits: int = 1, mu: float = 10.0) -> pb.Segment:
        """A fresh release of these tokens."""
        table = self.backend.codecs[0].table
        segment = encode(table, token_ids, NoiseSetting.from_mu(mu, table.spec.dim, bits))
        return pb.Segment(
            private=pb.PrivateSegment(
                bits=bits, noise_scale=segment.setting.scale, tokens=segment.tokens, payload=segment.payload
            )
        )

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value now."""
        value = self.backend.metrics.registry.get_sample_value(f"del_server_{name}", labels)
        assert value is not None, name
        return value


StartServer = Callable[..., AbstractAsyncContextManager[Serving]]
