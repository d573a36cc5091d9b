"""A gateway on a port of its own, in front of a recording server, both on a thread beside the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from client_fakes import FakeServer, Serving, TinyCodec, byte_tokenizer, client_arguments, finish

from del_client import AsyncClient
from del_client.gateway.app import create_app
from del_client.gateway.link import Link
from del_client.gateway.serving import address_of, listen, server_of
from del_client.gateway.settings import GatewaySettings
from del_client.loop_thread import LoopThread
from del_client.web.routes import open_paths, web_routes
from del_codec.v1 import inference_pb2 as pb

END_OF_SEQUENCE = 1


class Saying:
    """A server's replies, in turn: each byte a token, a character coming with its last, then an end of sequence."""

    def __init__(self, *answers: str, logprobs: bool = False) -> None:
        self.answers = list(answers)
        self._logprobs = logprobs

    async def __call__(self, query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        tokenizer = byte_tokenizer()
        for character in self.answers.pop(0):
            *earlier, last = tokenizer.encode(character, add_special_tokens=False).ids
            for token in (*earlier, last):
                yield pb.GenerateResponse(
                    query_id=query_id, delta=self._delta(token, character if token == last else "")
                )
        yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[END_OF_SEQUENCE]))
        yield finish(query_id, requests)

    def _delta(self, token: int, text: str) -> pb.TokenDelta:
        delta = pb.TokenDelta(token_ids=[token], text=text)
        if self._logprobs:
            likeliest = [pb.TokenLogprob(token_id=token, logprob=-0.5), pb.TokenLogprob(token_id=9, logprob=-1.5)]
            delta.logprobs.append(pb.TokenLogprobs(logprob=-0.5, top=likeliest))
        return delta


class Gateway:
    """`with Gateway(servicer, codec, folder, settings...) as url`; extra arguments are AsyncClient's."""

    def __init__(
        self,
        servicer: FakeServer,
        codec: TinyCodec,
        folder: Path,
        settings: dict[str, Any] | None = None,
        **client: Any,
    ) -> None:
        self._servicer = servicer
        self._settings = GatewaySettings(port=0, **(settings or {}))
        self._client = {**client_arguments(codec, folder), **client}
        self._loop = LoopThread()
        self._stack = AsyncExitStack()

    def __enter__(self) -> str:
        self._serving = Serving(self._servicer)
        self._address = self._loop.run(self._serving.__aenter__)
        return self._loop.run(self._start)

    def __exit__(self, *exception: object) -> None:
        self._loop.run(self._stack.aclose)
        self.stop_server()
        self._loop.close()

    def stop_server(self) -> None:
        """The server behind the gateway goes away."""
        self._loop.run(self._serving.__aexit__)

    def start_server(self) -> None:
        """It comes again, where it was."""
        self._serving = Serving(self._servicer, int(self._address.rpartition(":")[2]))
        self._loop.run(self._serving.__aenter__)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._uvicorn.server_state.connections)

    def soon(self, call: Callable[[], None]) -> None:
        """Have something called where gateway and server run."""

        async def calling() -> None:
            call()

        self._loop.run(calling)

    async def _start(self) -> str:
        listener = self._stack.enter_context(listen("127.0.0.1", 0))
        link = Link(lambda: AsyncClient(self._address, **self._client))
        self._uvicorn = server_of(create_app(link, self._settings, web_routes(), open_paths()))
        running = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))

        async def stop() -> None:
            self._uvicorn.should_exit = True
            await running

        self._stack.push_async_callback(stop)
        return address_of(listener)
