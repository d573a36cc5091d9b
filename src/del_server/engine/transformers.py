"""The embedded engine: a causal language model of transformers, one worker thread, turns of one step a prompt.

The thread owns the model. Prompts (jobs) join and leave between steps; prompts go in by chunks, so that a long one does
not stall the others. When idle, and after a failure, a probe step shows whether the model still answers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from del_codec.errors import DelError, EngineError, ExhaustedError, UnavailableError
from del_server import lora
from del_server.engine.base import (
    Capacity,
    Engine,
    Generation,
    Health,
    Load,
    Reason,
    Sampling,
    Scoring,
    check_candidates,
    check_prompt,
)
from del_server.engine.job import Job, forward
from del_server.engine.scoring import ScoringJob
from del_server.engine.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds of the engine.

    context_tokens: 0 for the model's own. running, waiting: most prompts in progress and in the queue.
    prefill_chunk: prompt tokens a step. probe_seconds: between probes of an idle model. stall_seconds: a step that
    takes longer makes the engine unhealthy.
    """

    context_tokens: int = 0
    running: int = 8
    waiting: int = 64
    prefill_chunk: int = 512
    probe_seconds: float = 30.0
    stall_seconds: float = 120.0


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
        self._stopping = False
        self._last_failure: Exception | None = None
        self._last_step = time.monotonic()
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

    def submit(self, prompt: Tensor, sampling: Sampling, adapter: str | None = None) -> Generation:
        """See Engine."""
        check_prompt(prompt, self.capacity)
        sequence = Sequence(prompt, sampling, self.capacity, adapter, on_cancel=self._forget)
        self._queue(sequence)
        return sequence

    def score(self, prompt: Tensor, candidates: SequenceOf[SequenceOf[int]], adapter: str | None = None) -> Scoring:
        """See Engine."""
        check_prompt(prompt, self.capacity)
        check_candidates(candidates, len(prompt), self.capacity)
        job = ScoringJob(prompt, candidates, adapter, on_cancel=self._forget)
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
        return Load(len(self._running), len(self._waiting))

    def health(self) -> Health:
        """See Engine."""
        age = time.monotonic() - self._last_step
        if not self._thread.is_alive():
            return Health(False, "the engine's thread is not running")
        if self._last_failure is not None:
            return Health(False, f"the model's latest step failed ({type(self._last_failure).__name__})")
        if age > self._config.stall_seconds:
            return Health(False, f"the latest step succeeded {age:.0f} s ago")
        return Health(True, f"the latest step succeeded {age:.1f} s ago")

    def _forget(self, job: Job) -> None:
        """Cancel one that waits; one that runs ends at its next turn."""
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.end(Reason.CANCELLED)

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            self._probe()
            if self._last_failure is not None:
                raise EngineError(f"the model's warm-up step failed: {self._last_failure}") from self._last_failure
            self._ready.set_result(None)
            while self._admit():
                for job in list(self._running):
                    self._turn(job)
        except Exception as error:
            self._ready.set_exception(error) if not self._ready.done() else logger.exception("the engine died")
        finally:
            with self._changed:
                self._stopping = True
                left = [*self._running, *self._waiting]
                self._running, self._waiting = [], deque()
            for job in left:
                job.fail(UnavailableError("the engine has stopped; send the same bytes again"))

    def _admit(self) -> bool:
        """Wait for work and move jobs from the queue to free slots; False when it is time to stop."""
        with self._changed:
            while not self._stopping and not self._running and not self._waiting:
                if not self._changed.wait(self._config.probe_seconds):
                    break
            while self._waiting and len(self._running) < self._config.running:
                self._running.append(self._waiting.popleft())
            stopping = self._stopping
        if not stopping and not self._running:
            self._probe()
        return not stopping

    def _turn(self, job: Job) -> None:
        """One step of one job. Its failure is its own."""
        if job.cancelled:
            self._retire(job).end(Reason.CANCELLED)
            return
        try:
            lora.use(self._model, job.adapter)
            reason = job.step(self._model, self._config.prefill_chunk)
        except Exception as error:
            logger.exception("a query failed in the model")
            known = isinstance(error, DelError)
            self._retire(job).fail(error if known else EngineError("the model failed on this query"))
            self._probe()
            return
        self._succeeded()
        if reason is not None:
            self._retire(job).end(reason)

    def _retire(self, job: Job) -> Job:
        """Free the slot, before its reader learns of the end."""
        with self._changed:
            self._running.remove(job)
        return job

    def _probe(self) -> None:
        """A prefill and a decode step of a prompt of two tokens; the outcome is the engine's health."""
        try:
            lora.use(self._model, None)
            ids = torch.zeros((1, 2), dtype=torch.long, device=self.capacity.device)
            cache = DynamicCache(config=self._model.config)
            forward(self._model, cache, inputs_embeds=self._model.get_input_embeddings()(ids))
            forward(self._model, cache, input_ids=ids[:, :1])
        except Exception as error:
            logger.exception("the engine's probe failed")
            self._last_failure = error
        else:
            self._succeeded()

    def _succeeded(self) -> None:
        self._last_failure = None
        self._last_step = time.monotonic()


def capacity_of(model: Any, config: EngineConfig) -> Capacity:
    """What the engine takes, from the model's configuration and weights."""
    text = model.config.get_text_config(decoder=True)
    weight = model.get_input_embeddings().weight
    own = int(getattr(text, "max_position_embeddings", 0) or 0)
    asked = config.context_tokens
    return Capacity(
        context_tokens=min(own, asked) if own and asked else own or asked or 2048,
        embedding_width=weight.shape[1],
        vocabulary=weight.shape[0],
        eos_token_ids=eos_token_ids(model),
        dtype=weight.dtype,
        device=weight.device,
        running=config.running,
        waiting=config.waiting,
    )


def eos_token_ids(model: Any) -> frozenset[int]:
    """Tokens that end an answer: of the generation configuration, else of the model's."""
    for config in (getattr(model, "generation_config", None), model.config.get_text_config(decoder=True)):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, (list, tuple)) else [found])
    return frozenset()
