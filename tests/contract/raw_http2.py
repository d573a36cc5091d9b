"""HTTP/2 frame by frame, for clients that no gRPC library would be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions

GENERATE = "/del_codec.v1.InferenceService/Generate"


class RawConnection:
    """One connection. statuses: the grpc-status of each stream that ended, -1 for one that was reset."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.initiate_connection()
        self.statuses: dict[int, int] = {}
        self.closed = False
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, port: int) -> RawConnection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def greet(self) -> None:
        """HTTP/2's preface and nothing more."""
        await self._flush()

    async def begin(self, path: str, token: str = "", more: tuple[tuple[str, str], ...] = ()) -> int:
        """Headers of a call and nothing behind them; the stream's id."""
        stream = self._http.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
        headers += [("content-type", "application/grpc"), ("te", "trailers")]
        headers += [("authorization", f"Bearer {token}")] if token else []
        headers += more
        self._http.send_headers(stream, headers)
        await self._flush()
        return stream

    async def send(self, stream: int, data: bytes) -> None:
        """As the server takes it; what is left when it ends the call is dropped."""

        def room() -> int:
            return min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size)

        while data:
            await self.until(lambda: stream in self.statuses or room() > 0)
            if stream in self.statuses:
                break
            part, data = data[: room()], data[room() :]
            self._http.send_data(stream, part)
            await self._flush()

    async def reset(self, stream: int) -> None:
        """Break a call off."""
        self._http.reset_stream(stream)
        await self._flush()

    async def end(self, stream: int) -> None:
        """Close our side of a call."""
        self._http.end_stream(stream)
        await self._flush()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(lambda: condition() or self.closed)
        assert condition()

    async def close(self) -> None:
        self._writer.close()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())
        await self._writer.drain()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(1 << 16):
                for event in self._http.receive_data(data):
                    self._note(event)
                await self._flush()
                async with self._news:
                    self._news.notify_all()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            self.closed = True
            async with self._news:
                self._news.notify_all()

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
            status = dict(event.headers).get("grpc-status")
            if status is not None:
                self.statuses[event.stream_id] = int(status)
        elif isinstance(event, h2.events.StreamReset):
            self.statuses.setdefault(event.stream_id, -1)
