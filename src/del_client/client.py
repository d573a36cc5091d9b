"""AsyncClient and Client: one session, for code that has an event loop and for code that has none.

Everything that they can do is Session's; here is only who waits for it, and how. docs/client.md shows their use.
"""

from __future__ import annotations

from types import TracebackType

from del_client.loop_thread import LoopThread
from del_client.session import Session


class AsyncClient(Session):
    """A device's connection to one server, as an async context manager; Session says what the arguments are.

    async with AsyncClient("127.0.0.1:50051") as client:
        async for delta in client.generate("What is love?"):
            print(delta.text, end="")
    """

    async def __aenter__(self) -> AsyncClient:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()


class Client(Session):
    """The same as a context manager for code without an event loop; there is one on a thread of its own.

        with Client("127.0.0.1:50051") as client:
            for delta in client.generate("What is love?"):
                print(delta.text, end="")

    Several threads may use it. Ctrl-C cancels what is waited for, and leaves the client whole.
    """

    def __enter__(self) -> Client:
        self._loop = LoopThread()
        try:
            self._loop.run(self._open())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            try:
                self._loop.run(self._close())
            finally:
                self._loop.close()
