"""StopStrings: ends an answer's text where one of the given strings begins; devices use it, and servers that are asked.

Knows nothing of tokens or of servers.
"""

from __future__ import annotations

from collections.abc import Sequence

from del_codec.errors import InvalidValue

MAX_STRINGS = 16
MAX_CHARS = 256


class StopStrings:
    """Fed an answer's text piece by piece, gives out what is sure to stand before every stop string."""

    def __init__(self, strings: Sequence[str]) -> None:
        if isinstance(strings, str) or len(strings) > MAX_STRINGS:
            raise InvalidValue("stop", strings, f"use a list of at most {MAX_STRINGS} strings")
        for string in strings:
            if not isinstance(string, str) or not 1 <= len(string) <= MAX_CHARS:
                raise InvalidValue("stop", string, f"use strings of 1 to {MAX_CHARS} characters")
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What may be shown after one more piece; what could begin a stop string is held back."""
        text = self._held + text
        starts = [at for string in self._strings if (at := text.find(string)) >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, at the answer's end."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of `text` that `string` begins with."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
