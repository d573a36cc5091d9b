"""One query: its prompt in segments, checked as they come, and its answer. Knows nothing of gRPC.

A Query is opened, given segments, ended and run; it may be cancelled at any time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from del_codec.errors import EngineError, InvalidValue
from del_codec.frame import Segment
from del_server.admission import Place
from del_server.backend import Backend
from del_server.engine.base import Finish, Generation, Logprobs, Reason, Sampling
from del_server.metrics.serving import PHASES
from del_server.prompt import Prompt, check_ids
from del_server.stopping import StoppedAnswer
from del_server.text import AnswerText


@dataclass(frozen=True, slots=True)
class Opening:
    """What a query asks for, before its prompt.

    codec: fingerprint in hex, "" for none. resume: ids of an answer that was cut off, `sampling.position` of them.
    stop: strings that the answer ends before.
    """

    codec: str
    task: str
    prompt_tokens: int
    sampling: Sampling
    resume: tuple[int, ...]
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of the answer and the text that became whole with them. more: the next ones are there already."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[Logprobs, ...] = ()
    more: bool = False


@dataclass(slots=True)
class Timings:
    """Phases in seconds; see the wire's Timings."""

    queue: float = 0.0
    decode: float = 0.0
    prefill: float = 0.0
    generate: float = 0.0
    first_token: float = 0.0


class Query:
    """See the module's docstring.

    caller: whose it is. received_bytes and sent_bytes are counted by the one who carries the messages.
    """

    def __init__(self, opening: Opening, backend: Backend, caller: str) -> None:
        limits, vocabulary = backend.limits, backend.engine.capacity.vocabulary
        if not 1 <= opening.prompt_tokens <= limits.prompt_tokens:
            raise InvalidValue("prompt_tokens", opening.prompt_tokens, f"send 1 to {limits.prompt_tokens} tokens")
        check_ids("resume_token_ids", opening.resume, vocabulary)
        self.prompt = Prompt(opening.codec, opening.task, backend)
        self._opening, self._backend = opening, backend
        self._opened = time.perf_counter()
        self.caller = caller
        self._place: Place | None = None
        self._generation: Generation | None = None
        self._stopped = StoppedAnswer(opening.stop) if opening.stop else None
        self.cancelled = False
        self.timings = Timings()
        self.new_tokens = self.received_bytes = self.sent_bytes = 0

    @property
    def most_tokens(self) -> int:
        """Of prompt and answer, however long the answer gets."""
        most, resumed = self._opening.sampling.max_tokens, len(self._opening.resume)
        whole = self._opening.prompt_tokens + max(most, resumed)
        return min(whole, self._backend.limits.context_tokens)

    @property
    def tokens(self) -> int:
        """Of prompt and answer so far."""
        return self.prompt.tokens + len(self._opening.resume) + self.new_tokens

    def add(self, segment: Segment) -> None:
        """Append a segment to the prompt. Raises InvalidValue, FrameError or UnknownCodec."""
        self.prompt.add(segment, self._opening.prompt_tokens)

    def end(self) -> None:
        """The prompt is complete. Raises InvalidValue unless it is what was declared and fits the context."""
        declared, held, soft = self._opening.prompt_tokens, self.prompt.tokens, self.prompt.soft_tokens
        if held != declared:
            raise InvalidValue("prompt_tokens", declared, f"the segments hold {held}; declare what they hold together")
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
        if self._place is not None:
            self._place.cancel()
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
        with self._backend.admission.ask(self.caller) as self._place:
            if not await self._place.slot():
                return Reason.CANCELLED
            prompt, self.timings.decode = await self.prompt.embed(self._opening.resume)
            waited = time.perf_counter() - ended - self.timings.decode
            if self.cancelled:
                return Reason.CANCELLED
            self.prompt.count()
            self._backend.metrics.token_bytes.observe(self.received_bytes / self.prompt.tokens)
            self._generation = self._backend.engine.submit(
                prompt, self._opening.sampling, self.prompt.adapter, self.prompt.prefix, self.caller
            )
            del prompt
            try:
                finish = await self._answer(self._generation, ended, send)
            finally:
                self._generation.cancel()
        self.timings.queue = waited + finish.queue_seconds
        self.timings.prefill = finish.prefill_seconds
        phases = {phase: getattr(self.timings, phase) for phase in PHASES}
        self._backend.metrics.answered(phases, time.perf_counter() - self._opened)
        return Reason.STOP if self._stopped is not None and self._stopped.found else finish.reason

    async def _answer(self, generation: Generation, ended: float, send: Callable[[Delta], Awaitable[None]]) -> Finish:
        metrics = self._backend.metrics
        text = AnswerText(self._backend.tokenizer, self._opening.resume)
        generated, sent = metrics.tokens["generated"], metrics.payload_bytes["sent", self.prompt.bits]
        first = latest = 0.0
        async for event in generation:
            if isinstance(event, Finish):
                await self._send_rest(text, send)
                return event
            if self._stopped is not None and self._stopped.found:
                continue  # what the engine made before it heard of the end
            now = time.perf_counter()
            if not self.new_tokens:
                first = now
                self.timings.first_token = now - ended
                metrics.first_token.observe(now - ended)
            else:
                metrics.output_token.observe(now - latest)
            latest = now
            self.timings.generate = latest - first
            self.new_tokens += 1
            generated.inc()
            whole = text.push(event.token_id)
            if self._stopped is None:
                logprobs = () if event.logprobs is None else (event.logprobs,)
                delta = Delta((event.token_id,), whole, logprobs, generation.ready)
            else:
                delta = Delta(*self._stopped.push(event.token_id, whole, event.logprobs))
                if self._stopped.found:
                    generation.cancel()
                if not delta.token_ids and not delta.text:
                    continue
            sent.inc(len(delta.text.encode()))
            await send(delta)
        raise EngineError("the engine's events ended without a finish")

    async def _send_rest(self, text: AnswerText, send: Callable[[Delta], Awaitable[None]]) -> None:
        """Send what an answer's end makes of a character that it broke off."""
        rest = Delta((), text.flush())
        if self._stopped is not None:
            rest = Delta(*self._stopped.finish("" if self._stopped.found else rest.text))
        if rest.token_ids or rest.text:
            self._backend.metrics.payload_bytes["sent", self.prompt.bits].inc(len(rest.text.encode()))
            await send(rest)

    def _already_over(self) -> Reason | None:
        """Why a resumed answer has nothing left to generate, if so."""
        sampling, resume = self._opening.sampling, self._opening.resume
        if resume and not sampling.ignore_eos and resume[-1] in self._backend.engine.capacity.eos_token_ids:
            return Reason.STOP
        return Reason.LENGTH if sampling.position >= sampling.max_tokens else None
