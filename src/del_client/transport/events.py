"""Responses of one query on their way from the stream's reader to the query's. Part of the transport."""

from __future__ import annotations

import asyncio
from collections import deque

from del_codec.errors import DelError
from del_codec.v1 import inference_pb2 as pb

# Responses that a query may leave unread before its stream is read no further.
UNREAD = 1024


class Events:
    """One puts, one takes; lighter than asyncio.Queue, for every token passes."""

    def __init__(self) -> None:
        self._unread: deque[pb.GenerateResponse] = deque()
        self._failure: DelError | None = None
        # What either waits for: the taker a response, the putter room; never both at once.
        self._change: asyncio.Future[None] | None = None

    @property
    def any(self) -> bool:
        """Whether some are there."""
        return bool(self._unread)

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._unread) >= UNREAD

    def put(self, response: pb.GenerateResponse) -> None:
        """One more."""
        self._unread.append(response)
        self._tell()

    async def room(self) -> None:
        """Wait until there is some."""
        while self.full:
            await self._changed()

    def fail(self, failure: DelError) -> None:
        """Nothing comes after those that are there."""
        self._failure = failure
        self._tell()

    def drop(self) -> None:
        """Nobody takes what is there."""
        self._unread.clear()
        self._tell()

    async def next(self) -> pb.GenerateResponse:
        """The next one. Raises what `fail` was given where none is left."""
        while not self._unread:
            if self._failure is not None:
                raise self._failure
            await self._changed()
        if self.full:
            self._tell()
        return self._unread.popleft()

    async def _changed(self) -> None:
        self._change = asyncio.get_running_loop().create_future()
        await self._change

    def _tell(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
