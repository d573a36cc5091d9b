"""An answer in the transformers engine: what it has generated, and the way of its events to their reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from torch import Tensor

from del_server.engine.base import Capacity, Event, Finish, Generation, Reason, Sampling, Token
from del_server.engine.job import Job, forward, token_input
from del_server.engine.sampling import choose, logprobs_of


class Sequence(Job, Generation):
    """A generation, one token a step."""

    def __init__(
        self,
        prompt: Tensor,
        sampling: Sampling,
        capacity: Capacity,
        adapter: str | None,
        on_cancel: Callable[[Job], None],
    ) -> None:
        super().__init__(prompt, adapter, on_cancel)
        self._sampling, self._capacity = sampling, capacity
        self._length = len(prompt)
        self._position = sampling.position
        self._last = -1
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    def step(self, model: Any, chunk: int) -> Reason | None:
        """`chunk` more tokens of the prompt, or one token of the answer."""
        if self.entering:
            logits = self.prefill(model, chunk)
            return None if logits is None else self._take(logits)
        return self._take(forward(model, self._cache, input_ids=token_input(model, [[self._last]])))

    def end(self, reason: Reason) -> None:
        """See Job."""
        self._close(Finish(reason, self.queue_seconds, self.prefill_seconds))

    def fail(self, error: Exception) -> None:
        """See Job."""
        self._close(error)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """See Generation."""
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finish):
                return

    def _take(self, logits: Tensor) -> Reason | None:
        """Choose and emit the next token; why the answer ends with it, if it does."""
        sampling = self._sampling
        chosen = choose(logits, sampling, self._position)
        reported = None if sampling.logprobs is None else logprobs_of(logits, chosen, sampling.logprobs)
        self._last = chosen
        self._length += 1
        self._position += 1
        self._post(Token(chosen, reported))
        if chosen in self._capacity.eos_token_ids and not sampling.ignore_eos:
            return Reason.STOP
        full = self._length >= self._capacity.context_tokens or self._position >= sampling.max_tokens
        return Reason.LENGTH if full else None

    def _close(self, last: Finish | Exception) -> None:
        self.free()
        self._post(last)

    def _post(self, event: Event | Exception) -> None:
        self.tell(self._events.put_nowait, event)
