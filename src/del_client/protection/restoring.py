"""Restorer: a streamed answer with the secrets put back for their placeholders, in prose and nowhere else.

The answer comes from an untrusted server. Whatever shows it may fetch an image, follow a link, run a call or copy a
block of code that it holds, so a secret that was put back there could leave after all. So the reader is strict: it
knows a few forms that every reader of Markdown takes alike, and leaves all that follows anything else as it is.

- A word (what stands between blanks) is restored if, besides placeholders, it holds letters, digits and the
  punctuation of sentences alone: no slash, @, =, no dot or colon but at its end. A secret that itself looks like an
  address is restored only where nothing but punctuation stands beside it.
- Left as they are: code between backticks, fenced or indented; [text](target), [text]; {...}; call(...).
- From an unclosed one of these on, or one that spans lines, or from a tag (`<a`), an escaped bracket or a joiner that
  nobody sees beside a bracket or a blank on, nothing more of the answer is restored.

The outcome does not depend on how the answer is cut into pieces. Knows nothing of tokens or of what found a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from del_client.protection.placeholders import Placeholders, forms, read_form
from del_client.terminal import SCRIPTS

LOOKAHEAD = 4096

_INDENTED = re.compile(r" {4}| {0,3}\t")
_FENCE = re.compile(r"(`{3,})[^`\n]*\n?|(~{3,})[^\n]*\n?")
_RUN_OF_THREE = re.compile(r"`{3}|~{3}")
_PARTED_RUN = re.compile(rf"[`~][{SCRIPTS}]+[`~]")
_TAG_OR_ESCAPE = re.compile(r"<[A-Za-z/!?]|\\[`\[\]()<>!{}]|`{3}|~{3}")
# A program that took it out would join what it parts.
_PARTED = re.compile(rf"(?<=[<\\\])}}`~!])[{SCRIPTS}]|(?<!\S)[{SCRIPTS}]|[{SCRIPTS}]+[<(\[{{`~]")
# What begins so has to be this, or is not understood.
_WHOLE = {
    "`": re.compile(rf"(`{{1,2}})(?!`)[^`\n{SCRIPTS}]*[^`\n\\{SCRIPTS}]\1(?!`)"),
    "[": re.compile(r"\[[^\[\]\n`<>{}\\]*\]"),
    "{": re.compile(r"\{[^{}\n`<\\]*\}"),
    "(": re.compile(r"\([^()\n`<\\{}]*\)"),
}
_TARGET = re.compile(r"\([^\s()<>\\\"'`\[\]]*\)")
_CLOSER = {"`": "`", "[": "]", "{": "}", "(": ")"}
_OPENING, _CLOSING = "*_\"'“‘«(|", "*_\"'”’»)|"
_WORD = re.compile(rf"[\w{_OPENING},–—-]*\x00(?:[\w{_CLOSING},;–—-]|\x00)*[{_CLOSING}.,;:!?…]*")
_ALONE = re.compile(rf"[{_OPENING}]*\x00[{_CLOSING}.,;:!?…]*")
_ADDRESS = re.compile(r"[./:@\\?=&%#]")


class _NotUnderstood(Exception):
    """From here on the answer is left as it is."""


class _Undecided(Exception):
    """What comes next decides."""


@dataclass(frozen=True, slots=True)
class _Ours:
    """A placeholder of ours: its characters, its secret, and the ending that stood inside of its brackets."""

    start: int
    end: int
    secret: str
    ending: str


class Restorer:
    """One answer: feed it piece by piece, then finish it; each returns text to show."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        self._forms = forms(placeholders.labels)
        self._raw: list[str] = []
        self._buffer = ""
        self._position = 0
        self._final = False
        self._understood = True
        self._at_line_start = True
        self._blanks = 0
        self._fence = ""

    def feed(self, piece: str) -> str:
        """The text that is decided by now."""
        self._raw.append(piece)
        return self._take(piece)

    def finish(self) -> str:
        """The rest, at the answer's end."""
        self._placeholders.answered("".join(self._raw))
        self._final = True
        return self._take("")

    def _take(self, piece: str) -> str:
        self._buffer += piece
        out: list[str] = []
        try:
            while self._understood and self._position < len(self._buffer):
                out.append(self._step())
        except _Undecided:
            pass
        except _NotUnderstood:
            self._understood = False
        if not self._understood:
            out.append(self._buffer[self._position :])
            self._position = len(self._buffer)
        self._buffer, self._position = self._buffer[self._position :], 0
        return "".join(out)

    def _step(self) -> str:
        """The next blank, word or line of code."""
        if self._fence:
            return self._code_line()
        if self._at_line_start:
            return self._line_start()
        character = self._buffer[self._position]
        if character not in " \t\r\n":
            return self._word()
        self._at_line_start = character == "\n"
        self._blanks = self._blanks + 4 if character == "\t" else self._blanks + 1
        return self._move(self._position + 1)

    def _move(self, end: int) -> str:
        start, self._position = self._position, end
        return self._buffer[start:end]

    def _line_start(self) -> str:
        """The blanks that a line begins with, or a line that opens a fence."""
        buffer = self._buffer
        end = self._position
        while end < len(buffer) and buffer[end] in " \t\r":
            end += 1
        self._know_up_to(end)
        if buffer[end : end + 1] in ("`", "~"):
            line = self._line(end)
            if _RUN_OF_THREE.match(line):
                fence = _FENCE.fullmatch(line)
                if fence is None or end > self._position:
                    raise _NotUnderstood
                self._fence = fence[1] or fence[2]
                return self._move(end + len(line))
        self._at_line_start = False
        self._blanks = 4 if _INDENTED.match(buffer, self._position, end) else 0
        return self._move(end)

    def _code_line(self) -> str:
        line = self._line(self._position)
        if re.fullmatch(rf"{self._fence}{self._fence[0]}*[ \t\r]*\n?", line):
            self._fence = ""
        elif _RUN_OF_THREE.search(line) or _PARTED_RUN.search(line):
            raise _NotUnderstood
        return self._move(self._position + len(line))

    def _line(self, start: int) -> str:
        """From `start` to the line's end, which is known."""
        end = self._buffer.find("\n", start, start + LOOKAHEAD) + 1
        if end:
            return self._buffer[start:end]
        if len(self._buffer) - start >= LOOKAHEAD:
            raise _NotUnderstood
        if not self._final:
            raise _Undecided
        return self._buffer[start:]

    def _know_up_to(self, end: int) -> None:
        """Go on only if the character at `end` is known, or there is none."""
        if end - self._position > LOOKAHEAD:
            raise _NotUnderstood
        if end >= len(self._buffer) and not self._final:
            raise _Undecided

    def _word(self) -> str:
        """What stands up to the next blank, restored if it is prose."""
        buffer, start = self._buffer, self._position
        indented = self._blanks >= 4
        prose = not indented
        ours: list[_Ours] = []
        end = start
        while end < len(buffer) and buffer[end] not in " \t\r\n":
            if end - start > LOOKAHEAD or _TAG_OR_ESCAPE.match(buffer, end) or _PARTED.match(buffer, end):
                raise _NotUnderstood
            found = self._placeholder(end)
            if found is not None:
                ours.append(found)
                end = found.end
                continue
            after = self._whole(end)
            prose = prose and after == end + 1
            end = after
        self._know_up_to(end)
        self._blanks = 4 if indented else 0
        text = self._move(end)
        return _restored(text, start, ours) if prose and ours else text

    def _placeholder(self, at: int) -> _Ours | None:
        """Ours, if one stands here."""
        buffer = self._buffer
        if buffer[at] == "[":
            self._see(at, "]")
        elif not buffer[at].isalpha() or (at > self._position and re.match(r"\w", buffer[at - 1])):
            return None
        match = self._forms.match(buffer, at)
        if not match:
            return None
        name, number, ending = read_form(match)
        secret = self._placeholders.secret(name, number)
        return None if secret is None else _Ours(at, match.end(), secret, ending)

    def _whole(self, at: int) -> int:
        """Where the thing that stands here ends: one character, or what its opening sign asks for."""
        buffer = self._buffer
        sign = buffer[at]
        if sign not in _WHOLE or (sign == "(" and not re.match(r"[\w\])]", buffer[max(at - 1, self._position)])):
            return at + 1
        self._see(at, _CLOSER[sign])
        match = _WHOLE[sign].match(buffer, at, at + LOOKAHEAD)
        if match is None:
            raise _NotUnderstood
        if sign == "[" and buffer[match.end() : match.end() + 1] == "(":
            self._see(match.end(), ")")
            match = _TARGET.match(buffer, match.end(), match.end() + LOOKAHEAD)
            if match is None:
                raise _NotUnderstood
        return match.end()

    def _see(self, at: int, closer: str) -> None:
        """Go on only if the line's end is known, or the next `closer` on it with the two characters behind it."""
        end = at + LOOKAHEAD
        if self._final or len(self._buffer) >= end or "\n" in self._buffer[at:]:
            return
        opening = at + 1 + (self._buffer[at : at + 2] == "``")
        closed = self._buffer.find(closer, opening)
        if closed < 0 or closed + 3 > len(self._buffer):
            raise _Undecided


def _restored(text: str, start: int, ours: list[_Ours]) -> str:
    """A word with its placeholders replaced, if what stands beside them is that of a sentence."""
    masked, shown, position = "", "", 0
    for found in ours:
        before = text[position : found.start - start]
        masked += before + "\0"
        shown += before + found.secret + found.ending
        position = found.end - start
    masked += text[position:]
    address = any(_ADDRESS.search(found.secret) for found in ours)
    allowed = (_ALONE if address else _WORD).fullmatch(masked) and "\0" not in text
    return shown + text[position:] if allowed else text
