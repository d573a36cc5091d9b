"""Candidates in the vLLM engine: each is a request whose tokens are forced, some of them at a time.

The prompt's whole blocks are computed once and shared (prefix caching); the rest of it is computed for each candidate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from del_codec.errors import EngineError
from del_server.engine.base import Reason, Scored, Scoring
from del_server.engine.vllm.choosing import forced
from del_server.engine.vllm.job import Job
from del_server.engine.vllm.request import Request, params_of

# Candidates of one prompt that vLLM is given at once: others' answers stand in the same line.
AT_ONCE = 16


class ScoringJob(Job, Scoring):
    """The scoring of one prompt's candidates."""

    def __init__(self, request: Request, candidates: Sequence[Sequence[int]], on_cancel: Callable[[Job], None]) -> None:
        longest = max(map(len, candidates))
        super().__init__(min(len(candidates), AT_ONCE) * (len(request.prompt) + longest), on_cancel)
        self._request: Request | None = request
        # Equal candidates are judged once.
        self._candidates = [tuple(ids) for ids in candidates]
        self._logprobs: dict[tuple[int, ...], list[float]] = {ids: [] for ids in self._candidates}
        self._result: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()

    async def work(self, llm: Any) -> Reason:
        """See Job."""
        if self._request is None:
            raise RuntimeError("the prompt was let go of")
        places = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for ids in self._logprobs:
                group.create_task(self._judge(llm, self._request, ids, places))
        return Reason.STOP

    async def result(self) -> Scored:
        """See Scoring."""
        return await self._result

    def end(self, reason: Reason) -> None:
        """See Job."""
        self._request = None
        if self._result.done():  # its reader was cancelled while waiting for it
            return
        if reason is Reason.CANCELLED:
            self._result.cancel()
            return
        clock = self.clock
        scored = Scored(self._judged(), clock.queue_seconds, clock.prefill_seconds, clock.decode_seconds)
        self._result.set_result(scored)

    def fail(self, error: Exception) -> None:
        """See Job."""
        self._request = None
        if not self._result.done():
            self._result.set_exception(error)

    async def _judge(self, llm: Any, request: Request, ids: tuple[int, ...], places: asyncio.Semaphore) -> None:
        values = self._logprobs[ids]
        async with places:
            async for tokens in request.steps(llm, params_of(len(ids), logprobs=0, choice=forced(ids))):
                self.clock.prefill()
                for token, logprobs in tokens:
                    if token != ids[len(values)] or logprobs is None:
                        raise EngineError("vLLM did not take the candidate's token")
                    values.append(logprobs.chosen)
        if len(values) != len(ids):
            raise EngineError("vLLM ended the candidate early")

    def _judged(self) -> tuple[tuple[float, ...], ...]:
        """Of each candidate; a first token that several have in common has one value."""
        first = {ids[0]: values[0] for ids, values in reversed(self._logprobs.items())}
        return tuple((first[ids[0]], *self._logprobs[ids][1:]) for ids in self._candidates)
