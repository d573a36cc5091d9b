"""AsyncClient and Client: one session, for code that has an event loop and for code that has none.

Everything that they can do is Session's; here is only who waits for it, and how. docs/client.md shows their use.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Unpack

from del_client.classifying import Classification
from del_client.loop_thread import LoopThread
from del_client.options import OptionArguments
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

    async def classify(
        self,
        text: str | Sequence[str],
        labels: Sequence[str] | None = None,
        *,
        task: str = "",
        template: str | None = None,
        **options: Unpack[OptionArguments],
    ) -> Classification:
        """Which label a private text, or pair of texts, most likely has.

        labels: the answers to choose from; PUBLIC. task: one of the server's, with labels and a soft prompt of its own.
        template: the words around the texts, {} where each stands; PUBLIC. options: noise, `clear` and `timeout` count.
        Each call is a release of its own, which costs. Raises InvalidValue for what can't be asked.
        """
        return await self._classify(text, labels, task, template, options)


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
            self._loop.run(self._open)
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            try:
                self._loop.run(self._close)
            finally:
                self._loop.close()

    def classify(
        self,
        text: str | Sequence[str],
        labels: Sequence[str] | None = None,
        *,
        task: str = "",
        template: str | None = None,
        **options: Unpack[OptionArguments],
    ) -> Classification:
        """As AsyncClient's."""
        if self._loop is None:
            raise RuntimeError("enter the client first: `with Client(...) as client`")
        return self._loop.run(self._classify, text, labels, task, template, options)
