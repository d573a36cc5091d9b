"""An answer in the transformers engine: what it has generated, and the way of its events to their reader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from torch import Tensor

from del_server.engine.base import Capacity, Event, Finish, Generation, Logprobs, Prefix, Reason, Sampling, Token
from del_server.engine.events import Events
from del_server.engine.job import Job, forward, token_input
from del_server.engine.outbox import Outbox
from del_server.engine.sampling import Draw, take

Outcome = Reason | Exception | None


class Sequence(Job, Generation):
    """A generation, one token a step. last: the latest token."""

    def __init__(
        self,
        prompt: Tensor,
        sampling: Sampling,
        capacity: Capacity,
        adapter: str | None,
        prefix: Prefix | None,
        outbox: Outbox,
        on_cancel: Callable[[Job], None],
    ) -> None:
        length = len(prompt) + (prefix.tokens if prefix else 0)
        most = min(length + max(1, sampling.max_tokens - sampling.position), capacity.context_tokens)
        super().__init__(prompt, adapter, prefix, most, outbox, on_cancel)
        self._sampling, self._capacity = sampling, capacity
        self._length = length
        self._position = sampling.position
        self._taken: list[int] = list(sampling.before)
        self._events = Events()

    @property
    def last(self) -> int:
        """The latest token."""
        return self._taken[-1]

    @property
    def draw(self) -> Draw:
        """What the next token is chosen by."""
        return Draw(self._sampling, self._position, self._taken)

    def step(self, model: Any, chunk: int) -> Reason | None:
        """`chunk` more tokens of the prompt, or one token of the answer, on a cache of its own."""
        if self.entering:
            logits = self.prefill(model, chunk)
            if logits is None:
                return None
        else:
            logits = forward(model, self._cache, input_ids=token_input(model, [[self.last]]))
        (chosen,) = take(logits.unsqueeze(0), [self.draw])
        outcome = self.accept(chosen)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def end(self, reason: Reason) -> None:
        """See Job."""
        self._close(Finish(reason, self.clock.queue_seconds, self.clock.prefill_seconds))

    def fail(self, error: Exception) -> None:
        """See Job."""
        self._close(error)

    @property
    def ready(self) -> bool:
        """See Generation."""
        return self._events.ready

    def __aiter__(self) -> AsyncIterator[Event]:
        """See Generation."""
        return aiter(self._events)

    def divert(self, take: Callable[[Event | Exception], None]) -> None:
        """Hand each event, or the error that ends the answer, to a function in the loop; nobody iterates then."""
        self._events.divert(take)

    def accept(self, chosen: tuple[int, Logprobs | None] | Exception) -> Outcome:
        """Emit the next token and its log-probabilities; why the answer ends with it or how it fails, if it does."""
        if isinstance(chosen, Exception):
            return chosen
        if (crowded := self._events.crowded) is not None:
            return crowded
        sampling, (token, logprobs) = self._sampling, chosen
        self._taken.append(token)
        self._length += 1
        self._position += 1
        self._post(Token(token, logprobs))
        if token in self._capacity.eos_token_ids and not sampling.ignore_eos:
            return Reason.STOP
        full = self._length >= self._capacity.context_tokens or self._position >= sampling.max_tokens
        return Reason.LENGTH if full else None

    def _close(self, last: Finish | Exception) -> None:
        self.free()
        self._post(last)

    def _post(self, event: Event | Exception) -> None:
        self.tell(self._events.put, event)
