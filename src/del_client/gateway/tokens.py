"""Tokens: those of one answer with their logprobs, given out with the text that they are part of.

What a stop string cuts off is never given out, nor is the token that ends an answer. Where secrets are put back, text
and tokens differ in length, so that a token may come with a neighbouring piece of text. Knows nothing of JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from del_client.answer import Answer
from del_client.query import TokenDelta


@dataclass(frozen=True, slots=True)
class Token:
    """One token. start, end: where the text that it came with stands in the answer, as the server sent it.

    top: (token id, logprob) of the likeliest ones in its place.
    """

    id: int
    start: int
    end: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Tokens:
    """The tokens of one answer that were not given out yet."""

    def __init__(self) -> None:
        self._waiting: list[Token] = []
        self._given = 0
        self._sent = 0
        self._shown = 0

    def take(self, delta: TokenDelta, sent: int) -> list[Token]:
        """What goes with a delta's text. sent: characters of the answer by now, as the server sent it."""
        start, self._sent = self._sent, sent
        self._waiting += [
            Token(token, start, sent, one.logprob, one.top)
            for token, one in zip(delta.token_ids, delta.logprobs, strict=bool(delta.logprobs))
        ]
        self._shown += len(delta.text)
        ready = 0
        while ready < len(self._waiting) and self._goes(self._waiting[ready]):
            ready += 1
        return self._give(ready)

    def rest(self, answer: Answer) -> list[Token]:
        """What is left at the end of an answer."""
        return self._give(0 if answer.stopped else max(len(answer.spoken_ids) - self._given, 0))

    def _goes(self, token: Token) -> bool:
        return token.end <= self._shown and token.start < self._shown

    def _give(self, count: int) -> list[Token]:
        given, self._waiting = self._waiting[:count], self._waiting[count:]
        self._given += len(given)
        return given
