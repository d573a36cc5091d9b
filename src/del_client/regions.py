"""Regions: which characters of a rendered chat come from which message, found without trusting the template.

The template never sees a private content. It is rendered once, with random marks in place of the contents, and the
contents are put where the marks come out. So the text around them, its loops and branches included, can't depend on
what was written. A template that doesn't give every mark back whole (it escapes, cuts, changes or drops contents) is
rendered with the contents after all, and then nothing of the text is the template's own: all of it is private.
Knows nothing of tokens.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from del_client.chat_template import ChatTemplate
from del_client.message import Message, ProtectedRange
from del_codec.errors import PrivacyRefusal
from del_codec.task import Task

TEMPLATE = -1
# What templates are known to change: cases, quotes, markup, line ends. A mark that survives holds all of it.
_TOUCHY = " aZ\"'\\<&>\n\n{{é}}ß\t"


@dataclass(frozen=True, slots=True)
class Region:
    """Characters start to end of a text: of message number `message` (TEMPLATE: of none), public or not.

    protected: the range of the content that they are, if any. token_ids: what they are sent as, where that is given.
    """

    start: int
    end: int
    message: int
    public: bool
    protected: ProtectedRange | None = None
    token_ids: tuple[int, ...] = ()


def locate(template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, list[Region]]:
    """The text of a chat and its regions, ascending; what lies in none is the template's or a public message's.

    Raises PrivacyRefusal where a protected range can't be found again, InvalidValue as ChatTemplate.render does.
    """
    probes = {
        _Probe(): number
        for number, message in enumerate(messages)
        if message.content and (message.token_ids or not message.public)
    }
    stand_in = {number: probe.text for probe, number in probes.items()}
    marked = template.render(_plain(messages, stand_in))
    by_core = {probe.core: (probe, number) for probe, number in probes.items()}
    pieces = re.split("(" + "|".join(map(re.escape, by_core)) + ")", marked) if probes else [marked]
    if set(pieces[1::2]) != set(by_core):
        return _opaque(template, messages)
    return _interleave(pieces, by_core, messages)


def whole(message: Message) -> tuple[str, list[Region]]:
    """The text and regions of a message that stands alone, without a template."""
    return message.content, [] if message.public else list(_content_regions(message, 0, 0, len(message.content), 0))


def filled(task: Task, fields: Sequence[Message]) -> tuple[str, list[Region]]:
    """The text and regions of a task's prompt around these fields. Raises InvalidValue for another number of them."""
    text, ranges = task.fill([field.content for field in fields])
    inside = [
        _content_regions(field, number, 0, len(field.content), start)
        for number, (field, (start, _)) in enumerate(zip(fields, ranges, strict=True))
    ]
    return text, list(itertools.chain.from_iterable(inside))


@dataclass(frozen=True, eq=False)
class _Probe:
    """A mark that no text holds by chance, with random blanks around it that show whether a template trims."""

    def __init__(self) -> None:
        mark = secrets.token_hex(16)
        object.__setattr__(self, "core", f"S{mark}{_TOUCHY}{mark}S")
        object.__setattr__(self, "blanks", "".join(secrets.choice(" \t\n") for _ in range(40)))

    core: str
    blanks: str

    @property
    def text(self) -> str:
        return self.blanks + self.core + self.blanks


def _plain(messages: Sequence[Message], stand_in: Mapping[int, str]) -> list[dict[str, str]]:
    return [
        {"role": message.role, "content": stand_in.get(number, message.content)}
        for number, message in enumerate(messages)
    ]


def _opaque(template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, list[Region]]:
    """The chat as the template writes it, all of it private."""
    if any(message.protected for message in messages):
        raise PrivacyRefusal(
            "this chat template changes what is written, so that sensitive spans can't be found in its text: "
            "leave protection out, or use a model with another template"
        )
    text = template.render(_plain(messages, {}))
    last = max(number for number, message in enumerate(messages) if message.content)
    return text, [Region(0, len(text), last, public=False)] if text else []


def _interleave(
    pieces: list[str], probes: Mapping[str, tuple[_Probe, int]], messages: Sequence[Message]
) -> tuple[str, list[Region]]:
    """Literals (even pieces) and contents (odd ones, named by their probe's core) put together."""
    text, regions = pieces[0], list[Region]()
    for core, literal in zip(pieces[1::2], pieces[2::2], strict=True):
        probe, number = probes[core]
        message = messages[number]
        kept_left, kept_right = text.endswith(probe.blanks), literal.startswith(probe.blanks)
        text = text.removesuffix(probe.blanks)
        first = 0 if kept_left else len(message.content) - len(message.content.lstrip())
        last = len(message.content) if kept_right else max(len(message.content.rstrip()), first)
        if first < last:
            regions += _content_regions(message, number, first, last, len(text) - first)
        text += message.content[first:last] + literal.removeprefix(probe.blanks)
    return text, regions


def _content_regions(message: Message, number: int, first: int, last: int, shift: int) -> Iterator[Region]:
    """The regions of characters first to last of a content that stands `shift` further right in the text."""
    if message.public:
        yield Region(first + shift, last + shift, number, public=True, token_ids=message.token_ids)
        return
    position = first
    for part in message.protected:
        start, end = max(part.start, first), min(part.end, last)
        if start >= end:
            continue
        if position < start:
            yield Region(position + shift, start + shift, number, public=False)
        yield Region(start + shift, end + shift, number, public=part.setting is None, protected=part)
        position = end
    if position < last:
        yield Region(position + shift, last + shift, number, public=False)
