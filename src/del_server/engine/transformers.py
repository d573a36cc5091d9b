"""The embedded engine: a causal language model of transformers, one worker thread, continuous batching.

The thread owns the model. Prompts (jobs) join and leave between rounds. A round takes some tokens of entering prompts,
so that a long one does not stall the others, and then one decode step of all answers of an adapter together, where the
model can do that; else each answer has passes of its own. When idle, and after a failure, a probe shows whether the
model still answers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import threading
from collections import deque
from collections.abc import Sequence as SequenceOf
from typing import Any

import torch
from torch import Tensor

from del_codec.errors import DelError, EngineError, ExhaustedError, InvalidValue, UnavailableError
from del_server import lora
from del_server.engine.base import (
    Engine,
    Health,
    Load,
    Prefix,
    Reason,
    Sampling,
    Scoring,
    check_candidates,
    check_prompt,
)
from del_server.engine.batches import Batches, kv_cost
from del_server.engine.capacity import EngineConfig, capacity_of, prefill_chunk
from del_server.engine.compiled import CompiledSteps
from del_server.engine.job import Job
from del_server.engine.outbox import Outbox
from del_server.engine.prefixes import Prefixes
from del_server.engine.probing import probe, shared_layers
from del_server.engine.pulse import Pulse
from del_server.engine.recorded import recorder_of
from del_server.engine.scoring import ScoringJob
from del_server.engine.sequence import Outcome, Sequence

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class TransformersEngine(Engine):
    """See the module's docstring; `model` is a loaded causal language model with weights placed."""

    name = "transformers"

    def __init__(self, model: Any, config: EngineConfig) -> None:
        self._model = model.eval()
        self._config = config
        self.capacity = capacity_of(model, config)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._outbox = Outbox()
        self._chunk = prefill_chunk(config, self.capacity)
        self._prefixes = Prefixes(config.prefix_tokens, self._chunk)
        # None where each answer has passes of its own.
        self._batches: Batches | None = None
        self._kv_bytes = 0
        self._stopping = False
        self._pulse = Pulse()
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    async def start(self) -> None:
        """See Engine."""
        self._thread.start()
        await asyncio.wrap_future(self._ready)

    async def stop(self) -> None:
        """See Engine."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def submit(
        self,
        prompt: Tensor,
        sampling: Sampling,
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",  # noqa: ARG002  of a prompt, nothing is kept
    ) -> Sequence:
        """See Engine."""
        check_prompt(prompt, self.capacity, prefix.tokens if prefix else 0)
        sequence = Sequence(prompt, sampling, self.capacity, adapter, prefix, self._outbox, self._forget)
        self._queue(sequence)
        return sequence

    def score(
        self,
        prompt: Tensor,
        candidates: SequenceOf[SequenceOf[int]],
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",  # noqa: ARG002  of a prompt, nothing is kept
    ) -> Scoring:
        """See Engine."""
        before = prefix.tokens if prefix else 0
        check_prompt(prompt, self.capacity, before)
        check_candidates(candidates, before + len(prompt), self.capacity)
        job = ScoringJob(prompt, candidates, adapter, prefix, self._outbox, self._forget)
        self._queue(job)
        return job

    def _queue(self, job: Job) -> None:
        with self._changed:
            if self._stopping or not self._thread.is_alive():
                raise UnavailableError("the engine has stopped; send the same bytes to another server")
            if len(self._running) + len(self._waiting) >= self._config.running + self._config.waiting:
                raise ExhaustedError(f"the queue of {self._config.waiting} prompts is full; try again later")
            self._waiting.append(job)
            self._changed.notify()

    def load(self) -> Load:
        """See Engine."""
        with self._changed:
            return Load(len(self._running), len(self._waiting), kv_cost(self._running), self._kv_bytes)

    def health(self) -> Health:
        """See Engine."""
        if not self._thread.is_alive():
            return Health(False, "the engine's thread is not running", fatal=True)
        return self._pulse.health(self._config.stall_seconds)

    def _forget(self, job: Job) -> None:
        """Cancel one that waits; one that runs ends at its next turn."""
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.end(Reason.CANCELLED)
        self._outbox.flush()

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            if self.capacity.device.type == "cuda":
                torch.cuda.set_device(self.capacity.device)
            self._probe()
            if (failure := self._pulse.failure) is not None:
                raise EngineError(f"the model's warm-up step failed: {failure}") from failure
            self._batches = self._shared()
            self._ready.set_result(None)
            while self._admit():
                self._round()
        except Exception as error:
            self._ready.set_exception(error) if not self._ready.done() else logger.exception("the engine died")
        finally:
            with self._changed:
                self._stopping = True
                left = [*self._running, *self._waiting]
                self._running, self._waiting = [], deque()
                self._batches = None
            for job in left:
                job.fail(UnavailableError("the engine has stopped; send the same bytes again"))
            self._outbox.flush()

    def _shared(self) -> Batches | None:
        """The batches, if the model's sequences can share its passes. Raises InvalidValue if none can be compiled."""
        shapes = shared_layers(self._model)
        record = recorder_of(self._model) if self._config.record_steps else None
        if self._config.compile_steps:
            if shapes is None or record is None:
                raise InvalidValue(
                    "compile", True, "leave it out: that is for a model on one GPU whose answers share passes"
                )
            record = compiled = CompiledSteps(self._model, record)
            compiled.ahead(self._model, shapes)
        if shapes is None:
            return None
        return Batches(self._model, shapes, self._prefixes, self.capacity.kv_tokens, record)

    def _admit(self) -> bool:
        """Wait for work and move jobs from the queue to free slots; False when it is time to stop."""
        with self._changed:
            while not self._stopping and not self._running and not self._waiting:
                failing = self._pulse.failure is not None
                if not self._changed.wait(min(self._config.probe_seconds, RETRY_SECONDS if failing else math.inf)):
                    break
            while self._waiting and self._has_room(self._waiting[0]):
                self._running.append(self._waiting.popleft())
            stopping = self._stopping
        if not stopping and not self._running:
            self._probe()
        return not stopping

    def _has_room(self, job: Job) -> bool:
        """Whether a slot is free and the memory that the job may come to take; one alone always has room."""
        if not self._running:
            return True
        room = kv_cost([*self._running, job]) <= self.capacity.kv_tokens
        return room and len(self._running) < self._config.running

    def _round(self) -> None:
        """Some prompt tokens, one turn of each job that has passes of its own, and one step of each batch."""
        for job in list(self._running):
            if job.unwanted:
                self._settle(job, Reason.CANCELLED)
        if self._batches is not None:
            self._seat(self._batches)
        budget = self._turns()
        if self._batches is not None:
            # Jobs with passes of their own leave the others half of the tokens at least.
            for outcomes in self._batches.enter(max(budget, self._chunk // 2)):
                self._settle_all(outcomes)
            for outcomes in () if self._batches.put_off(self._chunk // 2) else self._batches.step():
                self._settle_all(outcomes)
        self._count_memory()
        self._outbox.flush()

    def _seat(self, batches: Batches) -> None:
        """Give those that were admitted their rows."""
        new = [job for job in self._running if isinstance(job, Sequence) and job not in batches]
        if not new:
            return
        batches.share(self._running)
        for sequence in new:
            try:
                sequence.begin()
                batches.seat(sequence)
            except Exception as error:
                self._settle(sequence, error)
        batches.share(self._running)

    def _turns(self) -> int:
        """A turn of each job that has passes of its own; how many of the round's prompt tokens are left."""
        budget = self._chunk
        for job in list(self._running):
            if (self._batches is not None and job in self._batches) or (job.entering and not budget):
                continue
            taken = min(job.entering, budget)
            budget -= taken
            self._turn(job, taken)
        return budget

    def _turn(self, job: Job, tokens: int) -> None:
        """One pass of one job, with so many tokens of its prompt if it is entering."""
        outcome: Outcome
        try:
            lora.use(self._model, job.adapter)
            if not job.begun:
                job.begin(self._prefixes.begin(self._model, job.prefix, job.adapter))
            outcome = job.step(self._model, tokens)
        except Exception as error:
            outcome = error
        self._settle(job, outcome)
        self._outbox.flush()
        if outcome is None and job.entering:
            with self._changed:  # behind the others: they have the tokens of the next round first
                self._running.remove(job)
                self._running.append(job)

    def _settle_all(self, outcomes: SequenceOf[tuple[Sequence, Outcome]]) -> None:
        for sequence, outcome in outcomes:
            self._settle(sequence, outcome)
        self._outbox.flush()

    def _count_memory(self) -> None:
        """What keys and values take, for those who ask from other threads."""
        batches = self._batches
        alone = [job for job in self._running if batches is None or job not in batches]
        positions = kv_cost(alone) + self._prefixes.tokens
        self._kv_bytes = positions * self.capacity.kv_token_bytes + (batches.bytes if batches is not None else 0)

    def _settle(self, job: Job, outcome: Outcome) -> None:
        """What follows from a turn: the job goes on, ends or fails."""
        if isinstance(outcome, ExhaustedError):
            self._retire(job).fail(outcome)
            return
        if isinstance(outcome, Exception):
            logger.error("a query failed in the model", exc_info=outcome)
            known = isinstance(outcome, DelError)
            self._retire(job).fail(outcome if known else EngineError("the model failed on this query"))
            self._probe()
            return
        if outcome is not Reason.CANCELLED:
            self._pulse.beat()
        if outcome is not None:
            self._retire(job).end(outcome)

    def _retire(self, job: Job) -> Job:
        """Free the slot and its memory, before its reader learns of the end."""
        if isinstance(job, Sequence) and self._batches is not None and job in self._batches:
            self._batches.remove(job)
        with self._changed:
            self._running.remove(job)
        return job

    def _probe(self) -> None:
        """Find out whether the model answers; the outcome is the engine's health. Raises EngineError if that went on
        for too long: only a new process gets a GPU back that has failed."""
        try:
            lora.use(self._model, None)
            probe(self._model)
        except Exception as error:
            logger.exception("the engine's probe failed")
            self._pulse.failure = error
            if self._ready.done() and self._pulse.age > self._config.dead_seconds:
                raise EngineError(f"no step succeeded for {self._config.dead_seconds:g} s") from error
        else:
            self._pulse.beat()
