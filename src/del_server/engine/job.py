"""One prompt in the transformers engine: its way in, its cache and its clock. What follows the prompt is a subclass's.

The worker's thread calls step, end and fail; the event loop's thread makes, reads and cancels.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from del_server.engine.base import Prefix, Reason
from del_server.engine.clock import Clock
from del_server.engine.outbox import Outbox


class Job(ABC):
    """A prompt; `on_cancel` hears of its cancellation, once, and `outbox` takes what its reader is told.

    adapter: the LoRA that the model must have at each of its steps. prefix: what stands before the prompt. kv_tokens:
    most positions of keys and values that it may come to take.
    """

    def __init__(
        self,
        prompt: Tensor,
        adapter: str | None,
        prefix: Prefix | None,
        kv_tokens: int,
        outbox: Outbox,
        on_cancel: Callable[[Job], None],
    ) -> None:
        self.adapter, self.prefix, self.kv_tokens = adapter, prefix, kv_tokens
        self.cancelled = False
        self._prompt: Tensor | None = prompt
        self._cache: DynamicCache | None = None
        self._outbox, self._on_cancel = outbox, on_cancel
        self._loop = asyncio.get_running_loop()
        self.clock = Clock()

    @abstractmethod
    def step(self, model: Any, chunk: int) -> Reason | None:
        """One turn with the model, at most `chunk` tokens of the prompt; why the job ends with it, if it does."""

    @abstractmethod
    def end(self, reason: Reason) -> None:
        """Hand the outcome to the reader and free the cache."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Make the reader raise `error` and free the cache."""

    def cancel(self) -> None:
        """Leave the queue now, or end at the next turn."""
        if not self.cancelled:
            self.cancelled = True
            self._on_cancel(self)

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for it: it was cancelled, or its reader's loop has closed."""
        return self.cancelled or self._loop.is_closed()

    @property
    def begun(self) -> bool:
        """Whether it had a turn."""
        return self.clock.admitted

    @property
    def entering(self) -> int:
        """Tokens of the prompt that are still outside of the keys and values."""
        return 0 if self._prompt is None else len(self._prompt)

    def begin(self, cache: DynamicCache | None = None) -> None:
        """Start the clock of the prefill; with a cache of its own, which holds the prefix if there is one."""
        self.clock.admit()
        self._cache = cache

    def coming(self, most: int) -> Tensor:
        """The next of the prompt's embeddings [C, D], at most so many."""
        if self._prompt is None:
            raise RuntimeError("the prompt is in already")
        return self._prompt[:most]

    def entered(self, count: int) -> None:
        """So many more tokens of the prompt are in."""
        rest = None if self._prompt is None else self._prompt[count:]
        self._prompt = rest if rest is not None and len(rest) else None
        if self._prompt is None:
            self.clock.prefill()

    def prefill(self, model: Any, chunk: int) -> Tensor | None:
        """`chunk` more tokens of the prompt; float32 logits [V] of its last position once it is in."""
        part = self.coming(chunk)
        logits = forward(model, self._cache, inputs_embeds=part.unsqueeze(0))
        self.entered(len(part))
        return None if self.entering else logits

    def free(self) -> None:
        """Let go of prompt and cache."""
        self._prompt = self._cache = None

    def tell(self, post: Callable[..., object], *arguments: object) -> None:
        """Call `post` in the reader's loop, soon."""
        self._outbox.post(self._loop, post, *arguments)


def forward(model: Any, cache: DynamicCache | None, **inputs: Tensor) -> Tensor:
    """One forward pass of one sequence; float32 logits [V] of its last position."""
    output = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    logits: Tensor = output.logits[0, -1].float()
    return logits


def token_input(model: Any, ids: object) -> Tensor:
    """Ids as a tensor where the model reads them."""
    return torch.tensor(ids, dtype=torch.long, device=model.get_input_embeddings().weight.device)
