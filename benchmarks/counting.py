"""A TCP proxy that counts what passes: the bytes that a connection really costs, HTTP/2 framing and all."""

from __future__ import annotations

import asyncio
from types import TracebackType


class CountingProxy:
    """`async with CountingProxy("127.0.0.1:50051") as proxy`: connect to proxy.address; TCP payload, each way."""

    def __init__(self, server: str) -> None:
        self._host, _, port = server.rpartition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""
        self.upstream = self.downstream = 0

    async def __aenter__(self) -> CountingProxy:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        self._tasks |= {
            asyncio.create_task(self._pass(reader, there_writer, upstream=True)),
            asyncio.create_task(self._pass(there_reader, writer, upstream=False)),
        }

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if upstream:
                    self.upstream += len(data)
                else:
                    self.downstream += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
