"""Run: the answers of one request, read at the server's pace whatever the pace of who reads them.

Each answer has a reader of its own, so that a slow caller holds nobody's stream up; what waits for it is bounded by
what an answer may hold. Closing a run cancels what is left of it on the server. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from del_client.answer import Answer
from del_client.gateway.tokens import Token, Tokens
from del_client.gateway.turn import Reached, Turn
from del_client.terminal import safe
from del_codec.errors import UnavailableError

# Of an answer that is left: how many pieces its caller may not have got.
_MOMENTS = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """More of one answer, for its caller to read: control characters are taken out.

    tokens: those that it was made of, where logprobs were asked for.
    """

    choice: int
    text: str
    tokens: Sequence[Token] = ()


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more comes of one answer. reason: as OpenAI has it. tokens: what was left of them."""

    choice: int
    reason: str
    tokens: Sequence[Token]


class Run:
    """Started when made; to be closed, or used with `aclosing`. Iterated once, in the order in which things come."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._pieces: list[Piece | End] = []
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._left = len(turns)
        self._tasks = [asyncio.create_task(self._read(number, turn)) for number, turn in enumerate(turns)]

    @property
    def answers(self) -> list[Answer]:
        """All answers."""
        return [turn.answer for turn in self._turns]

    async def started(self, seconds: float) -> None:
        """Wait until something has come, or for so long. Raises the error of an answer that failed before that."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        if self._failure is not None and not self._pieces:
            raise self._failure

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> list[Piece | End]:
        """All that has come since, one thing at least."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if not self._left:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        pieces, self._pieces = self._pieces, []
        return pieces

    async def aclose(self) -> None:
        """Cancel what still runs, and wait until it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, choice: int, turn: Turn) -> None:
        answer, tokens = turn.answer, Tokens()
        shown, moments = 0, deque[Reached](maxlen=_MOMENTS)
        try:
            async with aclosing(aiter(answer)) as deltas:
                async for delta in deltas:
                    ready, text = tokens.take(delta, answer.sent_chars), safe(delta.text)
                    if text or ready:
                        self._give(Piece(choice, text, ready))
                    shown += len(text)
                    moments.append(Reached(shown, answer.sent_chars, len(answer.token_ids)))
            if answer.finish.reason == "cancelled":
                raise UnavailableError("the server broke the answer off: ask again", 1.0)
            self._left -= 1
            self._give(End(choice, answer.finish.reason, tokens.rest(answer)))
        except Exception as error:
            self._failure = self._failure or error
            self._news.set()
        finally:
            turn.ended(moments)

    def _give(self, piece: Piece | End) -> None:
        self._pieces.append(piece)
        self._news.set()
