"""AnswerText: tokens of an answer to whole UTF-8, as they come. Knows nothing of models or queries."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

# A character takes at most four bytes, so at most four tokens; what is still broken after these many is not one.
_MAX_PENDING = 16


class AnswerText:
    """Incremental detokenisation: the pieces join to what the tokenizer makes of all tokens, special ones left out.

    `before` are tokens of an answer that is resumed: their text is not given again, and a character that was cut off
    among them comes with its last token.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Then whole characters read the same whatever stands before them, which spares a decoding of the context.
        self._joins = isinstance(tokenizer.decoder, ByteLevel)
        self._context: list[int] = []
        self._pending: list[int] = []
        for token in before[-_MAX_PENDING:]:
            self.push(token)

    def push(self, token: int) -> str:
        """The text that is complete with `token`; empty while a character is."""
        self._pending.append(token)
        fresh = self._fresh()
        broken = fresh.endswith("\ufffd")
        if broken and len(self._pending) < _MAX_PENDING:
            return ""
        self._context, self._pending = [] if self._joins and not broken else self._pending, []
        return fresh

    def flush(self) -> str:
        """What is left when the answer ends: an incomplete character, shown as U+FFFD."""
        fresh = self._fresh() if self._pending else ""
        self._context, self._pending = self._pending, []
        return fresh

    def _fresh(self) -> str:
        if not self._context:
            return self._decode(self._pending)
        # Decoding with the tokens before keeps the spaces that some tokenizers strip at the start of a text.
        known = self._decode(self._context)
        return self._decode(self._context + self._pending)[len(known) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text
