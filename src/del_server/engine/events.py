"""Events: an answer's, on their way to its reader. Knows nothing of how they come about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from del_codec.errors import ExhaustedError
from del_server.engine.base import Event, Finish

# Events that a reader may leave unread. Generation never waits for a reader: a slow one would keep a slot's memory.
UNREAD = 1024


class Events:
    """Iterate for them, once: the last is a Finish, or an error that is raised. All but `crowded` belong to a loop."""

    def __init__(self) -> None:
        self._unread: asyncio.Queue[Event | Exception] = asyncio.Queue()

    def put(self, event: Event | Exception) -> None:
        """One more."""
        self._unread.put_nowait(event)

    @property
    def crowded(self) -> ExhaustedError | None:
        """What to end the answer with where its reader leaves too many unread."""
        if self._unread.qsize() < UNREAD:
            return None
        return ExhaustedError(f"{UNREAD} tokens of the answer wait to be read; read faster, and go on from there")

    async def __aiter__(self) -> AsyncIterator[Event]:
        """See the class."""
        while True:
            event = await self._unread.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finish):
                return
