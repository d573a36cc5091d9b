"""An answer in the transformers engine: what it has generated, and the way of its events to their reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from del_server.engine.base import Capacity, Event, Finish, Generation, Prefix, Reason, Sampling, Token
from del_server.engine.job import Job, forward, token_input
from del_server.engine.sampling import choose, logprobs_of


class Sequence(Job, Generation):
    """A generation, one token a step. last: the latest token."""

    def __init__(
        self,
        prompt: Tensor,
        sampling: Sampling,
        capacity: Capacity,
        adapter: str | None,
        prefix: Prefix | None,
        on_cancel: Callable[[Job], None],
    ) -> None:
        length = len(prompt) + (prefix.tokens if prefix else 0)
        most = min(length + max(1, sampling.max_tokens - sampling.position), capacity.context_tokens)
        super().__init__(prompt, adapter, prefix, most, on_cancel)
        self._sampling, self._capacity = sampling, capacity
        self._length = length
        self._position = sampling.position
        self.last = -1
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    def step(self, model: Any, chunk: int) -> Reason | None:
        """`chunk` more tokens of the prompt, or one token of the answer."""
        if self.entering:
            logits = self.prefill(model, chunk)
            return None if logits is None else self.take(logits)
        return self.take(forward(model, self._cache, input_ids=token_input(model, [[self.last]])))

    def hand_over(self) -> DynamicCache:
        """The cache, whose prompt is in, for a batch that makes the steps from now on."""
        cache, self._cache = self._cache, None
        if cache is None or self.entering:
            raise RuntimeError("only a prompt that is in has a cache to hand over")
        return cache

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

    def take(self, logits: Tensor) -> Reason | None:
        """Choose the next token, `last`, from logits [V] and emit it; why the answer ends with it, if it does."""
        sampling = self._sampling
        chosen = choose(logits, sampling, self._position)
        reported = None if sampling.logprobs is None else logprobs_of(logits, chosen, sampling.logprobs)
        self.last = chosen
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
