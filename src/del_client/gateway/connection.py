"""Connection: one caller's connection, which waits for that caller only so long; and a bound on how many there are.

Uvicorn alone waits as long as a caller likes for the rest of a request's head, for a body that nobody reads, and for
an answer to be taken. Knows nothing of what is asked or answered.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from del_client.gateway.settings import GatewaySettings


class Connection(H11Protocol):
    """HTTP/1.1, as uvicorn speaks it. Heeds the settings' head_seconds, reader_seconds and most_connections."""

    def __init__(self, *arguments: Any, settings: GatewaySettings, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._settings = settings
        self._idle_since = self.loop.time()
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Where this is one too many, the one goes that has been idle for longest, which may be this one."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # writing is paused whenever something waits for the caller
        self._wait_for_head()
        there = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
        if len(there) > self._settings.most_connections:
            idle = (one for one in there if one.idle and not one.flow.write_paused)
            min(idle, key=lambda one: one._idle_since).transport.abort()

    def data_received(self, data: bytes) -> None:
        """What comes while nothing is being answered is a piece of the next head, or of a body that nobody reads."""
        super().data_received(data)
        if not self.idle:
            self._unset_head()
        elif self._head is None:
            self._wait_for_head()

    def on_response_complete(self) -> None:
        """Idle from here on, unless the next request is there already."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Something waits for the caller to take it."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """The caller has taken all."""
        super().resume_writing()
        self._unset_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._unset_head()
        self._unset_reader()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(self._settings.head_seconds, self.transport.close)

    def _unset_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _wait_for_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self._settings.reader_seconds, self._check_reader, waiting)

    def _check_reader(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._wait_for_reader()
        else:
            self.transport.abort()

    def _unset_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
