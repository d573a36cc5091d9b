"""An answer of the vLLM engine: vLLM's steps to events, and their way to the reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from del_codec.errors import EngineError, ExhaustedError
from del_server.engine.base import Capacity, Event, Finish, Generation, Reason, Sampling, Token
from del_server.engine.sequence import UNREAD
from del_server.engine.vllm.choosing import drawn
from del_server.engine.vllm.job import Job
from del_server.engine.vllm.request import Request, params_of


class Answer(Job, Generation):
    """A generation; the one who reads it sets no pace."""

    def __init__(
        self, request: Request, sampling: Sampling, capacity: Capacity, on_cancel: Callable[[Job], None]
    ) -> None:
        length = len(request.prompt)
        most = min(max(1, sampling.max_tokens - sampling.position), capacity.context_tokens - length)
        super().__init__(length + most, on_cancel)
        self._request: Request | None = request
        self._sampling, self._most = sampling, most
        self._stops = frozenset() if sampling.ignore_eos else capacity.eos_token_ids
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    async def work(self, llm: Any) -> Reason:
        """See Job."""
        request, sampling = self._request, self._sampling
        if request is None:
            raise RuntimeError("the prompt was let go of")
        plain = not sampling.temperature and sampling.repetition_penalty == 1
        choice = None if plain else drawn(sampling)
        last, made = -1, 0
        async for tokens in request.steps(llm, params_of(self._most, self._stops, sampling.logprobs, choice)):
            self.prefilled()
            if self._events.qsize() >= UNREAD:
                raise ExhaustedError(
                    f"{UNREAD} tokens of the answer wait to be read; read faster, and go on from there"
                )
            for last, logprobs in tokens:
                self._events.put_nowait(Token(last, logprobs))
                made += 1
        if last in self._stops:
            return Reason.STOP
        if made < self._most:
            raise EngineError("vLLM ended the answer early")
        return Reason.LENGTH

    def end(self, reason: Reason) -> None:
        """See Job."""
        self._request = None
        self._events.put_nowait(Finish(reason, self.queue_seconds, self.prefill_seconds))

    def fail(self, error: Exception) -> None:
        """See Job."""
        self._request = None
        self._events.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """See Generation."""
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finish):
                return
