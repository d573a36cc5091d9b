"""Answer: one answer as it comes, made readable on the device, and the figures at its end.

Knows nothing of how prompts are made or sent: it is handed the events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from del_client.loop_thread import LoopThread
from del_client.prepared import Prepared
from del_client.query import Event, Finish, Timings, TokenDelta, Traffic, Usage
from del_client.report import PrivacyReport
from del_client.terminal import safe
from del_codec.errors import DelError, MismatchError, TimedOut
from del_codec.stopping import StopStrings

MAX_ANSWER_CHARS = 1 << 20


class TextStage(Protocol):
    """What a text goes through piece by piece; it may hold some back for later."""

    def feed(self, text: str) -> str:
        """What may be given on after one more piece."""

    def finish(self) -> str:
        """The rest, at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The steps of one answer, as its client takes them.

    release: lets the prompt's bits go, once, when the answer is first asked for. send: sends them and gives the
    answer's events. report: the certificate of what was sent. ended: called when nothing more will come. loop: where
    they run for a caller that has no event loop.
    """

    release: Callable[[], Awaitable[Prepared]]
    send: Callable[[Prepared, Traffic], AsyncGenerator[Event]]
    report: Callable[[Prepared], PrivacyReport | None]
    ended: Callable[[Answer], None] | None = None
    loop: LoopThread | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How an answer is read. restoring: puts back what placeholders stand for. stop: strings that it ends before.

    seconds: the longest that it may take; None: no bound.
    """

    restoring: Sequence[TextStage] = ()
    stop: Sequence[str] = ()
    seconds: float | None = None


class Answer:
    """One answer: iterate it for its deltas, once; leaving the loop cancels the query.

    An AsyncClient's answer is iterated with `async for`, a Client's with `for`. A delta's `text` is what its user may
    read: placeholders replaced, stop strings applied, without what is unsafe to show (terminal.safe), which goes first:
    gone later, it would join what was read as parted. Its `token_ids` are those that the server sent. After the end
    there are `finish`, `usage` and `privacy`. sent_chars: characters of `unrestored`.
    """

    def __init__(self, course: Course, reading: Reading) -> None:
        self._course = course
        self._seconds = reading.seconds
        self._stop = StopStrings(reading.stop)
        self._stages: list[TextStage] = [*reading.restoring, self._stop]
        self._traffic = Traffic()
        self._prepared: Prepared | None = None
        self._finish: Finish | None = None
        self._started = self._first = self._ended = 0.0
        self.started = self.failed = self._left_already = False
        self.token_ids: list[int] = []
        self._shown: list[str] = []
        self._sent: list[str] = []
        self._room = MAX_ANSWER_CHARS
        self.sent_chars = 0

    def __aiter__(self) -> Deltas:
        if self.started:
            raise RuntimeError("an answer is iterated once: ask again for another")
        self.started = True
        return Deltas(self._deltas(), self._leave)

    async def _deltas(self) -> AsyncGenerator[TokenDelta]:
        self._started = time.monotonic()
        try:
            self._prepared = await self._course.release()
            async with aclosing(self._course.send(self._prepared, self._traffic)) as events:
                while (event := await self._next(events)) is not None:
                    self._ended = time.monotonic()
                    self._first = self._first or self._ended
                    if isinstance(event, Finish):
                        rest = self._flush()
                        self._finish = replace(event, reason="stop") if self._stop.found else event
                        if rest:
                            yield TokenDelta((), rest)
                        return
                    yield self._read(event)
                    if self._stop.found:
                        self._finish = self._stopped()
                        return
        except DelError:
            self.failed = True
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """Say that nothing more will come, once."""
        if not self._left_already:
            self._left_already = True
            if self._course.ended is not None:
                self._course.ended(self)

    def __iter__(self) -> Iterator[TokenDelta]:
        loop = self._course.loop
        if loop is None:
            raise TypeError("an AsyncClient's answer is iterated with `async for`")
        deltas = aiter(self)
        try:
            while (delta := loop.run(_following, deltas)) is not None:
                yield delta
        finally:
            if not loop.closed:
                loop.run(deltas.aclose)

    async def _next(self, events: AsyncGenerator[Event]) -> Event | None:
        seconds = self._seconds
        deadline = None if seconds is None else asyncio.get_running_loop().time() + self._left(seconds)
        try:
            async with asyncio.timeout_at(deadline) as limit:
                return await anext(events, None)
        except TimeoutError:
            if limit.expired():
                raise TimedOut(f"the answer took longer than {seconds:g} s: it was cancelled") from None
            raise

    def _left(self, seconds: float) -> float:
        return seconds - (time.monotonic() - self._started)

    def _read(self, delta: TokenDelta) -> TokenDelta:
        """The delta as its user may read it."""
        self.token_ids += delta.token_ids
        self._room -= len(delta.text)
        if self._room < 0:
            raise MismatchError(f"the answer has over {MAX_ANSWER_CHARS} characters: it was cancelled")
        text = safe(delta.text)
        self._sent.append(text)
        self.sent_chars += len(text)
        for stage in self._stages:
            text = stage.feed(text)
        self._shown.append(text)
        return replace(delta, text=text)

    def _flush(self) -> str:
        """What the stages held back: each one's rest goes through those after it."""
        text = ""
        for stage in self._stages:
            text = stage.feed(text) + stage.finish() if text else stage.finish()
        self._shown.append(text)
        return text

    def _stopped(self) -> Finish:
        """The finish of an answer that ended on the device: what the device knows of it; phases are not known."""
        prepared, sent = self.prepared, self._traffic.sent
        usage = Usage(
            private_tokens=prepared.private_tokens,
            public_tokens=prepared.prompt_tokens - prepared.private_tokens,
            new_tokens=len(self.token_ids),
            payload_bytes=prepared.payload_bytes,
            received_bytes=sent,
            sent_bytes=0,
        )
        return Finish("stop", usage, Timings(0, 0, 0, 0, 0), sent)

    @property
    def text(self) -> str:
        """What its user may read of it so far."""
        return "".join(self._shown)

    @property
    def unrestored(self) -> str:
        """What the server has sent so far, placeholders and all, but what is unsafe to show."""
        return "".join(self._sent)

    @property
    def started_sending(self) -> bool:
        """Whether its prompt was let go, so that there is something `prepared`."""
        return self._prepared is not None

    @property
    def prepared(self) -> Prepared:
        """What was sent. Raises RuntimeError before that."""
        if self._prepared is None:
            raise RuntimeError("nothing has been sent yet: iterate over the answer first")
        return self._prepared

    @property
    def ended(self) -> bool:
        """Whether the answer has come to its end; not if it was left, cancelled or failed."""
        return self._finish is not None

    @property
    def stopped(self) -> bool:
        """Whether one of its stop strings ended it, here."""
        return self._stop.found

    @property
    def spoken_ids(self) -> tuple[int, ...]:
        """The token ids without the end-of-sequence token: what goes back to the server in a later turn."""
        by_server = self._finish is not None and self._finish.reason == "stop" and not self.stopped
        return tuple(self.token_ids[:-1] if by_server else self.token_ids)

    @property
    def finish(self) -> Finish:
        """Reason, usage, timings and bytes sent. Raises RuntimeError before the answer's end."""
        if self._finish is None:
            raise RuntimeError("the answer has not ended: iterate over it first")
        return self._finish

    @property
    def usage(self) -> Usage:
        """Tokens and bytes. Raises RuntimeError before the answer's end."""
        return self.finish.usage

    @property
    def privacy(self) -> PrivacyReport | None:
        """The certificate of all private tokens that were sent; None where nothing was private."""
        return self._course.report(self.prepared)

    @property
    def wire_bytes(self) -> int:
        """Bytes of messages sent so far, with gRPC's prefix."""
        return self._traffic.sent

    @property
    def ttft_ms(self) -> float:
        """Milliseconds from the first byte sent to the first token, or to the end of an empty answer."""
        return (self._first - self._started) * 1000

    @property
    def total_ms(self) -> float:
        """Milliseconds from the first byte sent to the answer's end."""
        return (self._ended - self._started) * 1000


class Deltas(AsyncIterator[TokenDelta]):
    """The deltas of one answer. Dropped before their end, the answer counts as left at once, and is then cancelled."""

    def __init__(self, deltas: AsyncGenerator[TokenDelta], leave: Callable[[], None]) -> None:
        self._deltas = deltas
        self._leave = leave

    async def __anext__(self) -> TokenDelta:
        return await anext(self._deltas)

    async def aclose(self) -> None:
        """Leave the answer, and wait until it is cancelled."""
        await self._deltas.aclose()

    def __del__(self) -> None:
        self._leave()  # asyncio closes the generator when it gets to it, which is too late for a conversation to go on


async def _following(deltas: AsyncIterator[TokenDelta]) -> TokenDelta | None:
    return await anext(deltas, None)
