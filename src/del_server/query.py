"""One query: its prompt in segments, checked as they come, and its answer. Knows nothing of gRPC.

A Query is opened, given segments, ended and run; it may be cancelled at any time. What all queries of a server share
is its Backend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from del_codec.errors import EngineError, ExhaustedError, FrameError, InvalidValue
from del_codec.frame import PrivateSegment, PublicSegment, Segment
from del_server.codec import ServedCodec
from del_server.config import Limits
from del_server.engine.base import Engine, Finish, Generation, Logprobs, Reason, Sampling
from del_server.metrics import Metrics
from del_server.status import UnknownCodec, UnknownTask
from del_server.text import AnswerText


class Admission:
    """Places for queries whose prompt is complete; without one, nothing is decoded."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place. Raises ExhaustedError if there is none."""
        if self.taken >= self.places:
            raise ExhaustedError(f"the server answers {self.places} queries at once; send the same bytes again later")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """What all queries share. embed_tokens: the model's own embeddings [T, D] of ids [T]. executor: for decoding."""

    version: str
    model: str
    engine: Engine
    codecs: tuple[ServedCodec, ...]
    embed_tokens: Callable[[Sequence[int]], Tensor]
    tokenizer: Tokenizer
    limits: Limits
    metrics: Metrics
    admission: Admission
    executor: Executor

    def codec(self, fingerprint: str) -> ServedCodec:
        """The live codec of that fingerprint (64 hex digits). Raises UnknownCodec."""
        for codec in self.codecs:
            if codec.fingerprint == fingerprint:
                return codec
        live = ", ".join(codec.fingerprint[:12] + "…" for codec in self.codecs) or "none"
        shown = f"codec {fingerprint[:12]}… is" if fingerprint else "a private segment without a codec is"
        raise UnknownCodec(f"{shown} not served here (live: {live}); fetch a live codec and encode the prompt with it")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a query asks for, before its prompt.

    codec: fingerprint in hex, "" for none. resume: ids of an answer that was cut off, `sampling.position` of them.
    """

    codec: str
    task: str
    prompt_tokens: int
    sampling: Sampling
    resume: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of the answer and the text that became whole with them."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[Logprobs, ...] = ()


@dataclass(slots=True)
class Timings:
    """Phases in seconds; see the wire's Timings."""

    queue: float = 0.0
    decode: float = 0.0
    prefill: float = 0.0
    generate: float = 0.0
    first_token: float = 0.0


class Query:
    """See the module's docstring. received_bytes and sent_bytes are counted by the one who carries the messages."""

    def __init__(self, opening: Opening, backend: Backend) -> None:
        limits, vocabulary = backend.limits, backend.engine.capacity.vocabulary
        if not 1 <= opening.prompt_tokens <= limits.prompt_tokens:
            raise InvalidValue("prompt_tokens", opening.prompt_tokens, f"send 1 to {limits.prompt_tokens} tokens")
        _check_ids("resume_token_ids", opening.resume, vocabulary)
        self._codec = backend.codec(opening.codec) if opening.codec else None
        known = self._codec.tasks if self._codec else ()
        if opening.task and opening.task not in known:
            raise UnknownTask("task", opening.task, f"leave it empty or use one of {list(known)}")
        self._opening, self._backend = opening, backend
        self._segments: list[Segment] = []
        self._generation: Generation | None = None
        self.cancelled = False
        self.timings = Timings()
        self.private_tokens = self.public_tokens = self.new_tokens = 0
        self.payload_bytes = self.received_bytes = self.sent_bytes = 0

    def add(self, segment: Segment) -> None:
        """Append a segment to the prompt. Raises InvalidValue, FrameError or UnknownCodec."""
        if len(self._segments) == self._backend.limits.segments:
            raise InvalidValue("segments", "too many", f"a prompt has at most {self._backend.limits.segments}")
        declared = self._opening.prompt_tokens
        if self.private_tokens + self.public_tokens + segment.tokens > declared:
            raise InvalidValue("prompt_tokens", declared, "the segments hold more; declare what they hold together")
        if isinstance(segment, PrivateSegment):
            codec = self._codec or self._backend.codec("")
            if len(segment.payload) > segment.tokens * codec.table.spec.dim:
                raise FrameError("payload", f"{len(segment.payload)} bytes", f"too long for {segment.tokens} tokens")
            self.private_tokens += segment.tokens
            self.payload_bytes += len(segment.payload)
            self._backend.metrics.payload_bytes.labels("received").inc(len(segment.payload))
        else:
            _check_ids("token_ids", segment.token_ids, self._backend.engine.capacity.vocabulary)
            self.public_tokens += segment.tokens
        self._segments.append(segment)

    def end(self) -> None:
        """The prompt is complete. Raises InvalidValue unless it is what was declared and fits the context."""
        declared = self._opening.prompt_tokens
        held = self.private_tokens + self.public_tokens
        if held != declared:
            raise InvalidValue("prompt_tokens", declared, f"the segments hold {held}; declare what they hold together")
        soft = self._codec.soft_tokens if self._codec and self.private_tokens else 0
        context = self._backend.limits.context_tokens
        if soft + held + len(self._opening.resume) >= context:
            raise InvalidValue(
                "prompt_tokens",
                declared,
                f"with {soft} soft and {len(self._opening.resume)} resumed tokens it must leave room for one more in "
                f"a context of {context}",
            )

    def cancel(self) -> None:
        """End the answer; run() then returns Reason.CANCELLED."""
        self.cancelled = True
        if self._generation is not None:
            self._generation.cancel()

    async def run(self, send: Callable[[Delta], Awaitable[None]]) -> Reason:
        """Decode the prompt, generate, and send every delta; why the answer ended.

        Raises ExhaustedError if the server is full, FrameError for a payload that can't be read, EngineError if the
        model failed. However it ends, the engine's slot is freed.
        """
        ended = time.perf_counter()
        if (reason := self._already_over()) is not None:
            await self._send_rest(AnswerText(self._backend.tokenizer, self._opening.resume), send)
            return reason
        with self._backend.admission.place():
            loop = asyncio.get_running_loop()
            prompt, self.timings.decode = await loop.run_in_executor(self._backend.executor, self._embed)
            self._segments.clear()
            waited = time.perf_counter() - ended - self.timings.decode
            if self.cancelled:
                return Reason.CANCELLED
            self._count_prompt()
            self._generation = self._backend.engine.submit(prompt, self._opening.sampling)
            del prompt
            try:
                finish = await self._answer(self._generation, ended, send)
            finally:
                self._generation.cancel()
        self.timings.queue = waited + finish.queue_seconds
        self.timings.prefill = finish.prefill_seconds
        for phase in ("queue", "decode", "prefill", "generate"):
            self._backend.metrics.phase.labels(phase).observe(getattr(self.timings, phase))
        return finish.reason

    async def _answer(self, generation: Generation, ended: float, send: Callable[[Delta], Awaitable[None]]) -> Finish:
        metrics = self._backend.metrics
        text = AnswerText(self._backend.tokenizer, self._opening.resume)
        first = latest = 0.0
        async for event in generation:
            if isinstance(event, Finish):
                await self._send_rest(text, send)
                return event
            now = time.perf_counter()
            if not self.new_tokens:
                first = now
                self.timings.first_token = now - ended
                metrics.first_token.observe(now - ended)
            else:
                metrics.inter_token.observe(now - latest)
            latest = now
            self.timings.generate = latest - first
            self.new_tokens += 1
            metrics.tokens.labels("generated").inc()
            whole = text.push(event.token_id)
            metrics.payload_bytes.labels("sent").inc(len(whole.encode()))
            await send(Delta((event.token_id,), whole, () if event.logprobs is None else (event.logprobs,)))
        raise EngineError("the engine's events ended without a finish")

    async def _send_rest(self, text: AnswerText, send: Callable[[Delta], Awaitable[None]]) -> None:
        """Send what an answer's end makes of a character that it broke off."""
        rest = text.flush()
        if rest:
            self._backend.metrics.payload_bytes.labels("sent").inc(len(rest.encode()))
            await send(Delta((), rest))

    def _already_over(self) -> Reason | None:
        """Why a resumed answer has nothing left to generate, if so."""
        sampling, resume = self._opening.sampling, self._opening.resume
        if resume and not sampling.ignore_eos and resume[-1] in self._backend.engine.capacity.eos_token_ids:
            return Reason.STOP
        return Reason.LENGTH if sampling.position >= sampling.max_tokens else None

    def _embed(self) -> tuple[Tensor, float]:
        """The prompt's embeddings [P + T + R, D] and the seconds that decoding took. Runs in the executor."""
        started = time.perf_counter()
        if self._codec is not None and self.private_tokens:
            prompt = self._codec.embed(self._segments)
        else:
            ids = [token for s in self._segments if isinstance(s, PublicSegment) for token in s.token_ids]
            prompt = self._backend.embed_tokens(ids)
        if self._opening.resume:
            prompt = torch.cat([prompt, self._backend.embed_tokens(self._opening.resume)])
        return prompt, time.perf_counter() - started

    def _count_prompt(self) -> None:
        tokens = self._backend.metrics.tokens
        tokens.labels("private").inc(self.private_tokens)
        tokens.labels("public").inc(self.public_tokens)


def _check_ids(field: str, ids: Sequence[int], vocabulary: int) -> None:
    largest = max(ids, default=0)
    if largest >= vocabulary:
        raise InvalidValue(field, largest, f"the model knows ids 0 to {vocabulary - 1}")
