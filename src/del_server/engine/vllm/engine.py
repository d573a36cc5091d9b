"""An engine that hands the model to vLLM, in processes of its own, and keeps the queue in front of it.

As many prompts are in vLLM as have slots; vLLM batches them, bounds their keys and values and, if these run short,
computes an answer's anew later. One of vLLM's processes that dies ends the engine for good: the server must be started
again. The warm-up compares answers to embeddings with answers to the same ids, so that a model which scales its
embeddings elsewhere than transformers does is not served wrongly.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.inputs.engine import embeds_input, tokens_input
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from del_codec.errors import (
    DelError,
    EngineError,
    ExhaustedError,
    InvalidValue,
    MismatchError,
    UnavailableError,
    first_line,
)
from del_server.engine.base import (
    MAX_LOGPROBS,
    Capacity,
    Engine,
    Generation,
    Health,
    Load,
    Prefix,
    Reason,
    Sampling,
    Scoring,
    check_candidates,
    check_prompt,
)
from del_server.engine.pulse import Pulse
from del_server.engine.vllm.answer import Answer
from del_server.engine.vllm.job import Job
from del_server.engine.vllm.request import Request, params_of
from del_server.engine.vllm.scoring import ScoringJob

logger = logging.getLogger(__name__)

GONE = "the engine has stopped; send the same bytes to another server"
WARM_UP_IDS = (1, 2, 3, 5, 8, 13, 21, 34)
# Of log-probabilities, in nats: what rounding may change in the warm-up.
TOLERANCE = {torch.float32: 0.01}
COARSE = 0.5
PROBES = "probe"


class VllmEngine(Engine):
    """launch: starts vLLM in the running loop. embed: the model's own embeddings of ids, as its layers read them.
    adapters: folders of LoRAs by name."""

    name = "vllm"

    def __init__(
        self,
        capacity: Capacity,
        launch: Callable[[], Any],
        embed: Callable[[Sequence[int]], Tensor],
        adapters: Mapping[str, Path] | None = None,
        probe_seconds: float = 30.0,
        stall_seconds: float = 120.0,
    ) -> None:
        self.capacity = capacity
        self._launch, self._embed = launch, embed
        self._loras = {
            name: LoRARequest(name, number, str(folder))
            for number, (name, folder) in enumerate((adapters or {}).items(), start=1)
        }
        self._probe_seconds, self._stall_seconds = probe_seconds, stall_seconds
        self._llm: Any = None
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._stopping = False
        self._pulse = Pulse()
        self._prober: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See Engine. Raises MismatchError for a model whose embeddings vLLM reads otherwise."""
        try:
            self._llm = self._launch()
        except Exception as error:
            raise EngineError(f"vLLM did not start: {first_line(error)}; its own messages say more") from error
        try:
            await self._warm_up()
        except DelError:
            await self.stop()
            raise
        cache = self._llm.vllm_config.cache_config
        kv_tokens = (cache.num_gpu_blocks or 0) * cache.block_size
        kv_bytes = kv_tokens * self.capacity.kv_token_bytes
        self.capacity = dataclasses.replace(self.capacity, kv_tokens=kv_tokens, kv_bytes=kv_bytes)
        self._pulse.beat()
        self._prober = asyncio.create_task(self._keep_probing())

    async def stop(self) -> None:
        """See Engine."""
        self._stopping = True
        if self._prober is not None:
            self._prober.cancel()
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.fail(UnavailableError(GONE))
        for job in self._running:
            job.abort()
        while self._running:
            await asyncio.sleep(0.001)
        if self._llm is not None:
            llm, self._llm = self._llm, None
            llm.shutdown()

    def submit(
        self,
        prompt: Tensor,
        sampling: Sampling,
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",
    ) -> Generation:
        """See Engine."""
        answer = Answer(self._request(prompt, adapter, prefix, caller), sampling, self.capacity, self._forget)
        self._queue(answer)
        return answer

    def score(
        self,
        prompt: Tensor,
        candidates: Sequence[Sequence[int]],
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",
    ) -> Scoring:
        """See Engine."""
        request = self._request(prompt, adapter, prefix, caller)
        check_candidates(candidates, len(request.prompt), self.capacity)
        job = ScoringJob(request, candidates, self._forget)
        self._queue(job)
        return job

    def load(self) -> Load:
        """See Engine."""
        running = list(self._running)  # in one step: the loop may change it meanwhile
        return Load(len(running), len(self._waiting), sum(job.tokens for job in running))

    def health(self) -> Health:
        """See Engine."""
        if self._llm is None:
            return Health(False, "the engine is not running")
        if self._llm.errored:
            return Health(False, "vLLM died", fatal=True)
        return self._pulse.health(self._stall_seconds)

    def _request(self, prompt: Tensor, adapter: str | None, prefix: Prefix | None, caller: str) -> Request:
        check_prompt(prompt, self.capacity, prefix.tokens if prefix else 0)
        if adapter is not None and adapter not in self._loras:
            raise InvalidValue("adapter", adapter, f"use one of {list(self._loras)}")
        whole = torch.cat([prefix.embeddings, prompt]) if prefix else prompt
        return Request(whole, self._loras[adapter] if adapter else None, f"caller {caller}", self._pulse.beat)

    def _queue(self, job: Job) -> None:
        if self._stopping or self._llm is None or self._llm.errored:
            raise UnavailableError(GONE)
        most = self.capacity.running + self.capacity.waiting
        if len(self._running) + len(self._waiting) >= most:
            raise ExhaustedError(f"the queue of {self.capacity.waiting} prompts is full; try again later")
        self._waiting.append(job)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.capacity.running:
            job = self._waiting.popleft()
            self._running.add(job)
            job.start(self._llm, self._ended)

    def _forget(self, job: Job) -> None:
        if job in self._running:
            job.abort()
        elif job in self._waiting:
            self._waiting.remove(job)
            job.end(Reason.CANCELLED)

    def _ended(self, job: Job, task: asyncio.Task[Reason]) -> None:
        """Free the slot before its reader learns of the end."""
        self._running.discard(job)
        if task.cancelled():
            job.end(Reason.CANCELLED) if job.cancelled else job.fail(UnavailableError(GONE))
        elif (error := task.exception()) is not None:
            job.fail(self._meant(error))
        else:
            job.end(task.result())
        if not self._stopping:
            self._admit()

    def _meant(self, error: BaseException) -> DelError:
        """What a reader is told."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, EngineDeadError):
            return UnavailableError("the engine died; send the same bytes again", retry_after=1.0)
        logger.error("a query failed in vLLM", exc_info=error)
        return error if isinstance(error, DelError) else EngineError("the model failed on this query")

    async def _keep_probing(self) -> None:
        """Two steps of vLLM whenever it is idle: the outcome is the engine's health."""
        while True:
            await asyncio.sleep(self._probe_seconds)
            if self._running:
                continue
            request = Request(self._embed(WARM_UP_IDS[:2]), None, PROBES, self._pulse.beat)
            try:
                async for _ in request.steps(self._llm, params_of(2)):
                    pass
            except Exception as error:
                logger.exception("the engine's probe failed")
                self._pulse.failure = error

    async def _warm_up(self) -> None:
        """The likeliest next tokens after some ids, and after these ids' embeddings."""
        by_ids, by_embeddings = [
            await self._likeliest(prompt)
            for prompt in (tokens_input(list(WARM_UP_IDS)), embeds_input(self._embed(WARM_UP_IDS)))
        ]
        common = by_ids.keys() & by_embeddings.keys()
        apart = max((abs(by_ids[token] - by_embeddings[token]) for token in common), default=math.inf)
        if not apart <= TOLERANCE.get(self.capacity.dtype, COARSE):
            raise MismatchError(
                f"vLLM reads this model's embeddings otherwise than transformers does: log-probabilities after the "
                f"same {len(WARM_UP_IDS)} tokens are up to {apart:.3g} nats apart; serve it with --engine transformers"
            )

    async def _likeliest(self, prompt: Any) -> dict[int, float]:
        try:
            async for output in self._llm.generate(prompt, params_of(1, logprobs=MAX_LOGPROBS), "del-warm-up"):
                (at,) = output.outputs[0].logprobs
        except Exception as error:
            raise EngineError(f"the model's warm-up step failed: {first_line(error)}") from error
        return {token: value.logprob for token, value in at.items()}
