"""Answers and scorings that a worker makes, as the server's side sees them. Knows nothing of processes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable

from del_codec.errors import ExhaustedError
from del_server.engine.base import Event, Finish, Generation, Scored, Scoring, Token
from del_server.engine.events import Events


class Job(ABC):
    """on_cancel: hears of a cancellation, once."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._on_cancel: Callable[[], None] | None = on_cancel

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Make the reader raise it."""

    def cancel(self) -> None:
        """See Generation and Scoring."""
        tell, self._on_cancel = self._on_cancel, None
        if tell is not None:
            tell()


class Answer(Job, Generation):
    """An answer; the worker's events are put into it."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__(on_cancel)
        self._events = Events()

    def put(self, token: Token) -> ExhaustedError | None:
        """One more token; what to end the answer with where its reader leaves too many unread."""
        if (crowded := self._events.crowded) is None:
            self._events.put(token)
        return crowded

    def end(self, finish: Finish) -> None:
        """The last event."""
        self._events.put(finish)

    def fail(self, error: Exception) -> None:
        """See Job."""
        self._events.put(error)

    @property
    def ready(self) -> bool:
        """See Generation."""
        return self._events.ready

    def __aiter__(self) -> AsyncIterator[Event]:
        """See Generation."""
        return aiter(self._events)


class Judged(Job, Scoring):
    """A scoring; the worker's result is put into it."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__(on_cancel)
        self._result: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()

    async def result(self) -> Scored:
        """See Scoring."""
        return await self._result

    def end(self, scored: Scored) -> None:
        """The outcome."""
        if not self._result.done():  # its reader was cancelled while waiting for it
            self._result.set_result(scored)

    def drop(self) -> None:
        """It was cancelled."""
        self._result.cancel()

    def fail(self, error: Exception) -> None:
        """See Job."""
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # that nobody waits for a failed one is no fault
