"""StoppedAnswer: an answer that ends before one of some strings, wherever its tokens' borders are.

Knows nothing of engines or queries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from del_codec.stopping import StopStrings
from del_server.engine.base import Logprobs

Piece = tuple[tuple[int, ...], str, tuple[Logprobs, ...]]
_UNFINISHED = -1


class StoppedAnswer:
    """Fed tokens and the text that became whole with each, gives out what is sure to stand before every string.

    Text goes as far as that is sure; a token's id goes once all of its text does, so that neither the ids nor the text
    tell of what follows.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        """Raises InvalidValue for strings that can't be looked for."""
        self._stop = StopStrings(strings)
        self._held: deque[tuple[int, Logprobs | None]] = deque()
        # Where the text of each of these ends, in characters; unfinished while a character is.
        self._ends: deque[int] = deque()
        self._read = self._given = 0

    @property
    def found(self) -> bool:
        """Whether the answer has ended before a string."""
        return self._stop.found

    def push(self, token: int, text: str, logprobs: Logprobs | None = None) -> Piece:
        """What may be sent after one more token."""
        self._held.append((token, logprobs))
        self._ends.append(_UNFINISHED)
        return self._pass_on(text)

    def finish(self, rest: str = "") -> Piece:
        """What is left when the answer ends, with the text that its end makes whole."""
        ids, text, logprobs = self._pass_on(rest)
        if self.found:
            return ids, text, logprobs
        text += self._stop.finish()
        more = self._release(len(self._held))
        return ids + more[0], text, logprobs + more[1]

    def _pass_on(self, text: str) -> Piece:
        if text:
            self._read += len(text)
            self._ends = deque(self._read if end == _UNFINISHED else end for end in self._ends)
        given = self._stop.feed(text)
        self._given += len(given)
        ids, logprobs = self._release(sum(_UNFINISHED < end <= self._given for end in self._ends))
        return ids, given, logprobs

    def _release(self, count: int) -> tuple[tuple[int, ...], tuple[Logprobs, ...]]:
        """The first of those that are held."""
        out = [self._held.popleft() for _ in range(count)]
        for _ in range(count):
            self._ends.popleft()
        return tuple(token for token, _ in out), tuple(logprobs for _, logprobs in out if logprobs is not None)
