"""Message: one turn of a chat, with what of its content is sensitive. Knows nothing of templates or tokens."""

from __future__ import annotations

from dataclasses import dataclass

from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting

MAX_PROMPT_CHARS = 1 << 20
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ProtectedRange:
    """Characters start to end (exclusive) of a content that are treated otherwise than the words around them.

    kind: what they are, say "name". secret: which secret of that kind, from 1 in its conversation. setting: the noise
    of their own; None where they are a placeholder, which leaves the device as public ids. pad: their private tokens
    are padded to a multiple of it.
    """

    start: int
    end: int
    kind: str
    secret: int
    setting: NoiseSetting | None
    pad: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise InvalidValue("range", (self.start, self.end), "use 0 <= start < end")
        if self.pad < 1:
            raise InvalidValue("pad", self.pad, "use a whole number of tokens, 1 for no padding")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `public` content leaves the device in the clear: only for what the server may read.

    protected: ranges of a private content, ascending and apart. token_ids: for a public content, the very ids that the
    server sent; they are sent back as they are, in place of what the tokenizer would make of the content.
    """

    role: str
    content: str
    public: bool = False
    protected: tuple[ProtectedRange, ...] = ()
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidValue("role", self.role, f"use one of {', '.join(ROLES)}")
        check_text(self.content)
        if self.public and self.protected:
            raise InvalidValue("protected", f"{len(self.protected)} ranges", "a public message has nothing to protect")
        if self.token_ids and not (self.public and self.content):
            raise InvalidValue("token_ids", f"{len(self.token_ids)} ids", "give them for a public content alone")
        end = 0
        for part in self.protected:
            if part.start < end or part.end > len(self.content):
                raise InvalidValue("protected", (part.start, part.end), "ranges lie in the content, apart, in order")
            end = part.end


def check_text(text: str) -> None:
    """Raise InvalidValue for a text that is too long or not Unicode."""
    if len(text) > MAX_PROMPT_CHARS:
        raise InvalidValue("prompt", f"{len(text)} characters", f"use at most {MAX_PROMPT_CHARS}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue("prompt", f"not Unicode at character {error.start}", "write it in UTF-8") from None
