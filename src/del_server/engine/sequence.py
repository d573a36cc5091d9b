"""One prompt in the transformers engine: its cache, what it has generated, and the way of its events to their reader.

The worker's thread calls advance, emit and end; the event loop's thread iterates and cancels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from del_server.engine.base import Event, Finish, Generation, Reason, Sampling, Token


class Sequence(Generation):
    """A generation with a key-value cache of its own.

    length: tokens of prompt and answer so far. position: tokens of the answer so far, those that came before included.
    """

    def __init__(self, prompt: Tensor, sampling: Sampling, on_cancel: Callable[[Sequence], None]) -> None:
        self.sampling = sampling
        self.length = len(prompt)
        self.position = sampling.position
        self.cancelled = False
        self._prompt: Tensor | None = prompt
        self._cache: DynamicCache | None = None
        self._last = -1
        self._on_cancel = on_cancel
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._queued_at = time.perf_counter()
        self._admitted_at: float | None = None
        self._prefilled_at: float | None = None

    def advance(self, model: Any, chunk: int) -> Tensor | None:
        """One step: `chunk` more tokens of the prompt, or the last token; float32 logits [V] once the prompt is in."""
        if self._admitted_at is None:
            self._admitted_at = time.perf_counter()
            self._cache = DynamicCache(config=model.config)
        if self._prompt is not None:
            part, rest = self._prompt[:chunk], self._prompt[chunk:]
            logits = forward(model, self._cache, inputs_embeds=part.unsqueeze(0))
            self._prompt = rest if len(rest) else None
            if self._prompt is not None:
                return None
            self._prefilled_at = time.perf_counter()
            return logits
        last = torch.tensor([[self._last]], device=model.get_input_embeddings().weight.device)
        return forward(model, self._cache, input_ids=last)

    def emit(self, token: Token) -> None:
        """Hand a token to the reader and make it the next step's input."""
        self._last = token.token_id
        self.length += 1
        self.position += 1
        self._post(token)

    def end(self, reason: Reason) -> None:
        """Hand the finish to the reader and free the cache."""
        queued = (self._admitted_at or time.perf_counter()) - self._queued_at
        prefill = 0.0
        if self._admitted_at is not None:
            prefill = (self._prefilled_at or time.perf_counter()) - self._admitted_at
        self._close(Finish(reason, queued, prefill))

    def fail(self, error: Exception) -> None:
        """Make the iteration raise `error` and free the cache."""
        self._close(error)

    def cancel(self) -> None:
        """See Generation."""
        if not self.cancelled:
            self.cancelled = True
            self._on_cancel(self)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """See Generation."""
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finish):
                return

    def _close(self, last: Finish | Exception) -> None:
        self._prompt = self._cache = None
        self._post(last)

    def _post(self, event: Event | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the reader's loop has closed: nobody is left to read
            self.cancelled = True


def forward(model: Any, cache: DynamicCache | None, **inputs: Tensor) -> Tensor:
    """One forward pass of one sequence; float32 logits [V] of its last position."""
    output = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    logits: Tensor = output.logits[0, -1].float()
    return logits
