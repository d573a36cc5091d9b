"""A chat or a plain text to spans of token ids: public ids, which leave as they are, and private ones, which never do.

A text is tokenised whole, so that the model meets the tokens that it was trained on, and then cut at token borders:
a token that touches one private character is private. What of a rendered chat is the template's own is found by
rendering it a second time with random marks in place of every private content: the text between the marks can't
depend on the contents, and all else is private. Knows nothing of latents, of the wire or of where files come from.

What this can't hide is structure: how many tokens a private span has, and which of the template's characters were
merged into its first and last token, is visible.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from del_client.chat_template import ChatTemplate
from del_codec.errors import InvalidValue

MAX_PROMPT_CHARS = 1 << 20
ROLES = ("system", "user", "assistant")

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `public` content leaves the device in the clear: only for what the server may read."""

    role: str
    content: str
    public: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidValue("role", self.role, f"use one of {', '.join(ROLES)}")
        _check_text(self.content)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of a prompt, all private or all public."""

    token_ids: tuple[int, ...]
    private: bool


class PromptReader:
    """Reads prompts with one tokenizer and, where the model has one, its chat template."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self._template = template

    def chat(self, messages: Sequence[Message]) -> list[Span]:
        """The spans of a chat, ready for the model's answer. A model without a template takes one message as text.

        Raises InvalidValue for messages that are empty or that the template refuses.
        """
        if not any(message.content for message in messages):
            raise InvalidValue("prompt", "", "write at least one character")
        if self._template is None:
            if len(messages) > 1:
                raise InvalidValue("messages", len(messages), "this model has no chat template: send one message")
            return self._text(messages[0].content, messages[0].public)
        text, private = locate(self._template, messages)
        return spans(self.tokenizer.encode(text, add_special_tokens=False), len(text), private)

    def text(self, text: str) -> list[Span]:
        """The spans of a text without a template: all of it is private, but for the tokenizer's own marks around it."""
        _check_text(text)
        if not text:
            raise InvalidValue("prompt", "", "write at least one character")
        return self._text(text, public=False)

    def _text(self, text: str, public: bool) -> list[Span]:
        return spans(self.tokenizer.encode(text), len(text), [] if public else [(0, len(text))])


def as_public(prompt: Sequence[Span]) -> list[Span]:
    """The same tokens as one public span: no privacy at all."""
    return [Span(tuple(itertools.chain.from_iterable(span.token_ids for span in prompt)), private=False)]


def locate(template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, list[Range]]:
    """The rendered chat and the character ranges of it that are not provably the template's or a public message's."""
    text = template.render([{"role": message.role, "content": message.content} for message in messages])
    marks = ["S" + secrets.token_hex(16) for _ in messages]
    contents = {mark: message.content for mark, message in zip(marks, messages, strict=True) if not message.public}
    if not contents:
        return text, []
    marked = template.render(
        [
            {"role": message.role, "content": message.content if message.public else mark}
            for mark, message in zip(marks, messages, strict=True)
        ]
    )
    pieces = re.split(f"({'|'.join(contents)})", marked)
    literals, order = pieces[0::2], pieces[1::2]
    if set(order) != set(contents):
        # The template changes or drops a content, so even its own text may be a function of what was written.
        return text, [(0, len(text))]
    found = [contents[mark] for mark in order]
    for candidate in (found, [content.strip() for content in found]):
        if _interleave(literals, candidate) == text:
            return text, _ranges(literals, candidate)
    return text, [_between(text, literals[0], literals[-1])]


def _interleave(literals: Sequence[str], contents: Sequence[str]) -> str:
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(literals, contents, fillvalue="")))


def _ranges(literals: Sequence[str], contents: Sequence[str]) -> list[Range]:
    ranges, position = [], 0
    for literal, content in zip(literals, contents, strict=False):
        start = position + len(literal)
        position = start + len(content)
        ranges.append((start, position))
    return ranges


def _between(text: str, head: str, tail: str) -> Range:
    """What lies between the template's first and last literal; everything if the text doesn't keep them."""
    if len(head) + len(tail) <= len(text) and text.startswith(head) and text.endswith(tail):
        return len(head), len(text) - len(tail)
    return 0, len(text)


def spans(encoding: Encoding, length: int, private: Sequence[Range]) -> list[Span]:
    """The tokens of a text of `length` characters as spans: private where a token may hold part of a private range."""
    if not encoding.ids:
        raise InvalidValue("prompt", f"{length} characters", "the tokenizer finds no token in it")
    own = np.array(encoding.special_tokens_mask) == 0  # the others were set around the text, whatever it is
    flags = np.zeros(len(own), dtype=bool)
    flags[own] = _touches(np.array(encoding.offsets, dtype=np.int64)[own], length, private)
    grouped = itertools.groupby(zip(encoding.ids, flags.tolist(), strict=True), key=lambda pair: pair[1])
    return [Span(tuple(token for token, _ in group), flag) for flag, group in grouped]


def _touches(offsets: npt.NDArray[np.int64], length: int, private: Sequence[Range]) -> npt.NDArray[np.bool_]:
    """Which tokens, given their character ranges [T, 2], may hold a private character.

    Tokenizers may claim less than a token holds (trimmed spaces, dropped or composed marks), so each range is widened
    over the unclaimed characters on both sides, and an empty one over its neighbours.
    """
    if not len(offsets):
        return np.zeros(0, dtype=bool)
    starts, ends = offsets[:, 0], offsets[:, 1]
    empty = starts >= ends
    earlier_end = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    later_start = np.concatenate([np.minimum.accumulate(starts[::-1])[::-1][1:], [length]])
    starts = np.maximum(np.minimum(starts, earlier_end) - empty, 0)
    ends = np.minimum(np.maximum(ends, later_start) + empty, length)
    secret = np.zeros(length + 1, dtype=np.int64)
    for start, end in private:
        secret[start + 1 : end + 1] = 1
    counts = np.cumsum(secret)
    return np.asarray(counts[ends] > counts[starts])


def _check_text(text: str) -> None:
    if len(text) > MAX_PROMPT_CHARS:
        raise InvalidValue("prompt", f"{len(text)} characters", f"use at most {MAX_PROMPT_CHARS}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue("prompt", f"not Unicode at character {error.start}", "write it in UTF-8") from None
