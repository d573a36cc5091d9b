"""An answer of the vLLM engine: vLLM's steps to events, and their way to the reader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from del_codec.errors import EngineError
from del_server.engine.base import Capacity, Event, Finish, Generation, Reason, Sampling, Token
from del_server.engine.events import Events
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
        self._events = Events()

    async def work(self, llm: Any) -> Reason:
        """See Job."""
        request, sampling = self._request, self._sampling
        if request is None:
            raise RuntimeError("the prompt was let go of")
        plain = not sampling.temperature and sampling.repetition_penalty == 1
        choice = None if plain else drawn(sampling)
        last, made = -1, 0
        async for tokens in request.steps(llm, params_of(self._most, self._stops, sampling.logprobs, choice)):
            self.clock.prefill()
            if (crowded := self._events.crowded) is not None:
                raise crowded
            for last, logprobs in tokens:
                self._events.put(Token(last, logprobs))
                made += 1
        if last in self._stops:
            return Reason.STOP
        if made < self._most:
            raise EngineError("vLLM ended the answer early")
        return Reason.LENGTH

    def end(self, reason: Reason) -> None:
        """See Job."""
        self._request = None
        self._events.put(Finish(reason, self.clock.queue_seconds, self.clock.prefill_seconds))

    def fail(self, error: Exception) -> None:
        """See Job."""
        self._request = None
        self._events.put(error)

    @property
    def ready(self) -> bool:
        """See Generation."""
        return self._events.ready

    def __aiter__(self) -> AsyncIterator[Event]:
        """See Generation."""
        return aiter(self._events)
