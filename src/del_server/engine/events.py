"""Events: an answer's, on their way to its reader. Knows nothing of how they come about."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from del_codec.errors import ExhaustedError
from del_server.engine.base import Event, Finish, Token

# Events that a reader may leave unread. Generation never waits for a reader: a slow one would keep a slot's memory.
UNREAD = 1024


class Events:
    """Iterate for them, once: the last is a Finish, or an error that is raised. All but `crowded` belong to a loop."""

    def __init__(self) -> None:
        self._unread: deque[Event | Exception] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._take: Callable[[Event | Exception], None] = self._keep

    def put(self, event: Event | Exception) -> None:
        """One more."""
        self._take(event)

    def divert(self, take: Callable[[Event | Exception], None]) -> None:
        """Hand each to a function as it comes, and keep none: for who passes them on."""
        self._take = take

    @property
    def ready(self) -> bool:
        """Whether the next one is a token that is there already."""
        return bool(self._unread) and isinstance(self._unread[0], Token)

    @property
    def crowded(self) -> ExhaustedError | None:
        """What to end the answer with where its reader leaves too many unread."""
        if len(self._unread) < UNREAD:
            return None
        return ExhaustedError(f"{UNREAD} tokens of the answer wait to be read; read faster, and go on from there")

    async def __aiter__(self) -> AsyncIterator[Event]:
        """See the class."""
        while True:
            while not self._unread:
                self._reader = asyncio.get_running_loop().create_future()
                await self._reader
            event = self._unread.popleft()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finish):
                return

    def _keep(self, event: Event | Exception) -> None:
        self._unread.append(event)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
