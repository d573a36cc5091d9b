"""How an answer's messages leave: each token as it comes, so many at once, or at a steady beat; padded to a bucket.

Against those who watch an encrypted connection: sizes and times of single tokens tell what an answer is about.
Knows nothing of engines or of how an answer comes about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from del_codec.errors import InvalidValue
from del_codec.padding import check_bucket, padding
from del_codec.v1 import inference_pb2 as pb
from del_server.query import Delta
from del_server.service.messages import add_delta

MAX_TOKENS = 1024
MAX_INTERVAL_MS = 10_000
# Tokens that go together, in one message or in some in a row, because they are there already.
MOST_TOGETHER = 16
Send = Callable[[Sequence[pb.GenerateResponse]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Shaping:
    """See the wire's Shaping; 0 is off."""

    tokens: int = 0
    interval_ms: int = 0
    bucket_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tokens <= MAX_TOKENS:
            raise InvalidValue("shaping.tokens", self.tokens, f"use 0 (off) to {MAX_TOKENS}")
        if not 0 <= self.interval_ms <= MAX_INTERVAL_MS:
            raise InvalidValue("shaping.interval_ms", self.interval_ms, f"use 0 (off) to {MAX_INTERVAL_MS}")
        if self.tokens and self.interval_ms:
            raise InvalidValue("shaping.tokens", self.tokens, "use tokens or interval_ms, not both")
        check_bucket(self.bucket_bytes)

    @classmethod
    def from_pb(cls, message: pb.Shaping) -> Shaping:
        """Raises InvalidValue."""
        return cls(message.tokens, message.interval_ms, message.bucket_bytes)

    def pad(self, response: pb.GenerateResponse) -> pb.GenerateResponse:
        """The same response, its padding set anew."""
        if not self.bucket_bytes:
            return response
        response.ClearField("padding")
        response.padding = padding(response.ByteSize(), self.bucket_bytes)
        return response


class Outlet:
    """The deltas of one answer on their way out, as an async context: what is sent goes through `send`."""

    def __init__(self, query_id: int, shaping: Shaping, send: Send) -> None:
        self._query_id, self._shaping, self._send = query_id, shaping, send
        # The message that is being filled, and those before it that are full; tokens of the one and of all of them.
        self._waiting = pb.GenerateResponse(query_id=query_id)
        self._full: list[pb.GenerateResponse] = []
        self._held = self._ready = 0
        # Those who ask for so many tokens a message get just as many.
        self._most = shaping.tokens or MOST_TOGETHER
        self._ended = False
        self._beat: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Outlet:
        if self._shaping.interval_ms:
            self._beat = asyncio.create_task(self._keep_time(self._shaping.interval_ms / 1000))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beat is not None:
            self._beat.cancel()

    async def put(self, delta: Delta) -> None:
        """Take new tokens; where there is no beat, send them once there are enough, with those that are there already:
        an answer that is ahead of its messages catches up."""
        add_delta(self._waiting.delta, delta)
        self._held += len(delta.token_ids)
        if self._beat is not None:
            return
        if self._held >= self._shaping.tokens and not (delta.more and self._held < self._most):
            self._ready += self._held
            self._full.append(self._filled())
        if self._full and not (delta.more and self._ready < MOST_TOGETHER):
            full, self._full, self._ready = self._full, [], 0
            await self._send(full)

    async def end(self) -> None:
        """Send what waits, and return when it is time for the answer's last message."""
        self._ended = True
        if self._beat is not None:
            await self._beat
        elif self._any_waiting:
            await self._send([self._filled()])

    @property
    def _any_waiting(self) -> bool:
        return self._waiting.HasField("delta")

    async def _keep_time(self, interval: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + interval, loop.time())
            await asyncio.sleep(due - loop.time())
            if self._ended and not self._any_waiting:
                return
            # Cancelled inside of grpc's write, the beat of a query that failed would take the whole call down.
            await asyncio.shield(self._send([self._filled()]))

    def _filled(self) -> pb.GenerateResponse:
        response, self._waiting = self._waiting, pb.GenerateResponse(query_id=self._query_id)
        self._held = 0
        return self._shaping.pad(response)
