"""Served: one request's answers on their way to its caller, whole or chunk by chunk.

Knows nothing of how a request was read or how bytes are sent.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from del_client.client import AsyncClient
from del_client.gateway.asked import Asked
from del_client.gateway.errors import LIMITED, ApiError, api_error
from del_client.gateway.report import report
from del_client.gateway.run import End, Piece, Run
from del_client.gateway.shapes import Json, Shape, usage
from del_client.gateway.state import GatewayState
from del_client.gateway.tokens import Token
from del_client.gateway.turn import Turn
from del_codec.errors import MismatchError

_DONE = b"data: [DONE]\n\n"
# JSON has them as they are, and many readers of events take them for the end of a line.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}


class Served:
    """Started when made; to be closed in any case, which cancels what still runs.

    Raises ApiError where as many answers run already as may.
    """

    def __init__(
        self, state: GatewayState, client: AsyncClient, asked: Asked, turns: Sequence[Turn], shape: Shape
    ) -> None:
        most = state.settings.most_answers
        if state.metrics.running + len(turns) > most:
            raise ApiError(
                429,
                f"{state.metrics.running} answers are running, of at most {most}: try again",
                kind=LIMITED,
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )
        self._state = state
        self._client = client
        self._asked = asked
        self._shape = shape
        self._run = Run(turns)
        self._endings: list[Json] = []
        self._ended = self._closed = False
        state.metrics.running += len(turns)

    async def started(self) -> None:
        """Wait for the first token, but not for long. Raises ApiError for what failed before it."""
        try:
            await self._run.started(self._state.settings.first_seconds)
        except Exception as error:
            raise await self._failed(error) from error

    async def whole(self) -> Json:
        """The completion. Raises ApiError."""
        texts: defaultdict[int, list[str]] = defaultdict(list)
        tokens: defaultdict[int, list[Token]] = defaultdict(list)
        reasons: dict[int, str] = {}
        try:
            async for pieces in self._run:
                for piece in pieces:
                    tokens[piece.choice] += piece.tokens
                    if isinstance(piece, End):
                        reasons[piece.choice] = piece.reason
                    else:
                        texts[piece.choice].append(piece.text)
            figures = await self._report()
        except Exception as error:
            raise await self._failed(error) from error
        self._ended = True
        choices = [
            self._shape.whole(choice, "".join(texts[choice]), reason, self._logprobs(tokens[choice]))
            for choice, reason in sorted(reasons.items())
        ]
        return {**self._shape.envelope(False), "choices": choices, "usage": self._usage(), "del": figures}

    async def events(self) -> AsyncGenerator[bytes]:
        """A stream's events, those that are ready together at once; an error is the last one."""
        try:
            for choice in range(len(self._run.answers)):
                for opening in self._shape.opening(choice):
                    yield self._event(opening)
            async for pieces in self._run:
                events = [self._event(choice) for piece in pieces for choice in self._choices(piece)]
                if events:
                    yield b"".join(events)
            yield self._last_events(await self._report())
            self._ended = True
        except Exception as error:
            self._state.metrics.broken.inc()
            yield _data((await self._failed(error)).body)

    def _choices(self, piece: Piece | End) -> Iterator[Json]:
        """The choices of the chunks for it; the last ending of all is kept for the end."""
        if isinstance(piece, Piece):
            yield self._shape.piece(piece.choice, piece.text, self._logprobs(piece.tokens))
            return
        if piece.tokens:
            yield self._shape.piece(piece.choice, "", self._logprobs(piece.tokens))
        self._endings.append(self._shape.ending(piece.choice, piece.reason))
        if len(self._endings) < len(self._run.answers):
            yield self._endings[-1]

    def _last_events(self, figures: Json) -> bytes:
        ending = self._endings[-1]
        if not self._asked.usage:
            return self._event(ending, {"del": figures}) + _DONE
        last = {**self._shape.envelope(True), "choices": [], "usage": self._usage(), "del": figures}
        return self._event(ending) + _data(last) + _DONE

    def _event(self, choice: Json, more: Mapping[str, Any] = MappingProxyType({})) -> bytes:
        without_usage = {"usage": None} if self._asked.usage else {}
        return _data({**self._shape.envelope(True), "choices": [choice], **without_usage, **more})

    def _logprobs(self, tokens: Sequence[Token]) -> Json | None:
        return None if self._asked.options.get("logprobs") is None else self._shape.logprobs(tokens)

    def _usage(self) -> Json:
        return usage(self._run.answers, self._asked.choices)

    async def _report(self) -> Json:
        return await asyncio.to_thread(report, self._client, self._run.answers)

    async def _failed(self, error: Exception) -> ApiError:
        """What the caller is told. Where the codec isn't the server's any more, the next request asks for another."""
        self._ended = True
        if isinstance(error, MismatchError):
            await self._state.link.renew(self._client)
        return api_error(error, self._shape.prompt_field)

    async def close(self) -> None:
        """Cancel what still runs; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._state.metrics.running -= len(self._run.answers)
        sent = [answer.prepared for answer in self._run.answers if answer.started_sending]
        self._state.metrics.charged.inc(sum(segment.tokens for one in sent for segment in one.fresh_segments))
        if not self._ended:
            self._state.metrics.left.inc()
        await self._run.aclose()


def _data(chunk: Json) -> bytes:
    text = json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.translate(_LINE_ENDS).encode() + b"\n\n"
