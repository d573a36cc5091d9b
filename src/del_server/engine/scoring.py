"""Candidates in the transformers engine: the prompt goes in once, and its cache serves all of them.

The prompt's last position gives every candidate's first token. Longer candidates are judged in groups of like length,
each group in one forward pass over copies of the prompt's cache: what is padded stands at the end, where no token that
counts can see it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from del_codec.errors import EngineError
from del_server.engine.base import Prefix, Reason, Scored, Scoring
from del_server.engine.job import Job, token_input
from del_server.engine.outbox import Outbox

# Of one forward pass: positions that it computes logits for, and positions of all its copies of the cache.
GROUP_TOKENS = 256
GROUP_CACHE = 8192


class ScoringJob(Job, Scoring):
    """The scoring of one prompt's candidates, one group a step."""

    def __init__(
        self,
        prompt: Tensor,
        candidates: Sequence[Sequence[int]],
        adapter: str | None,
        prefix: Prefix | None,
        outbox: Outbox,
        on_cancel: Callable[[Job], None],
    ) -> None:
        length = len(prompt) + (prefix.tokens if prefix else 0)
        self._groups = groups(candidates, length)
        copies = max((len(group) * (length + len(candidates[group[0]])) for group in self._groups), default=0)
        super().__init__(prompt, adapter, prefix, length + copies, outbox, on_cancel)
        self._candidates = candidates
        self._logprobs: list[list[float]] = [[] for _ in candidates]
        self._result: asyncio.Future[Scored] = self._loop.create_future()

    def step(self, model: Any, chunk: int) -> Reason | None:
        """`chunk` more tokens of the prompt, or one group of candidates."""
        if self.entering:
            logits = self.prefill(model, chunk)
            if logits is None:
                return None
            first = torch.log_softmax(logits, dim=-1)[token_input(model, [ids[0] for ids in self._candidates])]
            self._note(range(len(self._candidates)), first.unsqueeze(1))
        else:
            self._judge(model, self._groups.pop())
        return None if self._groups else Reason.STOP

    async def result(self) -> Scored:
        """See Scoring."""
        return await self._result

    def end(self, reason: Reason) -> None:
        """See Job."""
        self.free()
        if reason is Reason.CANCELLED:
            self.tell(self._result.cancel)
            return
        scored = Scored(
            tuple(tuple(values) for values in self._logprobs),
            self.clock.queue_seconds,
            self.clock.prefill_seconds,
            self.clock.decode_seconds,
        )
        self.tell(self._settle, scored)

    def fail(self, error: Exception) -> None:
        """See Job."""
        self.free()
        self.tell(self._settle, error)

    def _settle(self, outcome: Scored | Exception) -> None:
        if self._result.done():  # its reader was cancelled while waiting for it
            return
        if isinstance(outcome, Exception):
            self._result.set_exception(outcome)
        else:
            self._result.set_result(outcome)

    def _judge(self, model: Any, group: list[int]) -> None:
        """The tokens after the first of a group's candidates."""
        chosen = [self._candidates[index] for index in group]
        longest = max(len(ids) for ids in chosen)
        padded = token_input(model, [[*ids, *[0] * (longest - len(ids))] for ids in chosen])
        cache: Any = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(group))
        output = model(input_ids=padded[:, :-1], past_key_values=cache, use_cache=True)
        logprobs = torch.log_softmax(output.logits.float(), dim=-1)
        self._note(group, logprobs.gather(2, padded[:, 1:].unsqueeze(2)).squeeze(2))

    def _note(self, group: Sequence[int], logprobs: Tensor) -> None:
        """Keep log-probabilities [N, L] of a group's tokens, without those of the padding."""
        for index, row in zip(group, logprobs.tolist(), strict=True):
            room = len(self._candidates[index]) - len(self._logprobs[index])
            self._logprobs[index] += row[:room]
        if not bool(logprobs.isfinite().all()):
            raise EngineError("the model's logits are not finite")


def groups(candidates: Sequence[Sequence[int]], prompt_tokens: int) -> list[list[int]]:
    """Indices of the candidates of two tokens and more, those of like length together, within a pass's bounds."""
    order = sorted((index for index, ids in enumerate(candidates) if len(ids) > 1), key=lambda i: -len(candidates[i]))
    made: list[list[int]] = []
    most = 0
    for index in order:
        if not made or len(made[-1]) >= most:
            length = len(candidates[index])
            most = max(1, min(GROUP_TOKENS // length, GROUP_CACHE // (prompt_tokens + length)))
            made.append([])
        made[-1].append(index)
    return made
