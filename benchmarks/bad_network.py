"""A TCP proxy that does to its connections what bad networks do: delay, stall, reset, cut short, alter.

As a program it only delays: `python benchmarks/bad_network.py LISTEN_HOST:PORT TARGET_HOST:PORT SECONDS`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable

Alter = Callable[[int, bytes], bytes]


class BadNetwork:
    """`async with BadNetwork("127.0.0.1:50051") as network`, and connect to `network.address`.

    delay: seconds that every chunk takes, each way. stalled: nothing passes while it is set, and nobody is told.
    cut_after: bytes from the server after which a connection is closed, for the next connections in turn. alter: makes
    of (position, chunk) from the server what the device gets. refusing: new connections are reset.
    """

    def __init__(self, target: str, listen: str = "127.0.0.1:0") -> None:
        self._target, self._listen = _split(target), _split(listen)
        self.delay = 0.0
        self.refusing = False
        self.cut_after: list[int] = []
        self.alter: Alter | None = None
        self.connections = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> BadNetwork:
        self._server = await asyncio.start_server(self._connected, *self._listen)
        self.address = f"{self._listen[0]}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        self.go_on()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Let nothing pass, until `go_on`."""
        self._passing.clear()

    def go_on(self) -> None:
        """Let pass what was held up, and all that follows."""
        self._passing.set()

    def reset(self) -> None:
        """Break every connection with a TCP reset, as a reboot of a router does."""
        for writer in list(self._writers):
            _reset(writer)

    def hang_up(self) -> None:
        """Close every connection in order, whatever is under way."""
        for writer in list(self._writers):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        cut = self.cut_after.pop(0) if self.cut_after else None
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        both = {writer, there_writer}
        self._writers |= both
        ways = [
            asyncio.create_task(self._pass(reader, there_writer, None, None)),
            asyncio.create_task(self._pass(there_reader, writer, cut, self.alter)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in both:
                one.close()
            self._writers -= both
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int | None, alter: Alter | None
    ) -> None:
        position = 0
        while chunk := await reader.read(1 << 14):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._passing.wait()
            if cut is not None and position + len(chunk) >= cut:
                writer.write(chunk[: cut - position])
                await writer.drain()
                return
            writer.write(alter(position, chunk) if alter else chunk)
            position += len(chunk)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:  # or it has closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def _delay(listen: str, target: str, seconds: float) -> None:
    async with BadNetwork(target, listen) as network:
        network.delay = seconds
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_delay(sys.argv[1], sys.argv[2], float(sys.argv[3])))
