"""Regions: which characters of a rendered chat come from which message, found without trusting the template.

The template is rendered with random marks in place of the contents, and the contents are put where the marks come out.
So the text around them, its loops and branches included, can't depend on what was written. A template that doesn't give
every mark back whole (it escapes, cuts, changes or drops contents), or whose own text differs from one set of marks to
another, is rendered with the contents after all, and then nothing of the text is its own: all of it is private.
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
_BLANKS = " \t\n"


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
    marks = {
        number: _Probe.draw()
        for number, message in enumerate(messages)
        if message.content and (message.token_ids or not message.public)
    }
    skeleton = _skeleton(template, messages, marks)
    others = {number: mark.another() for number, mark in marks.items()}
    if skeleton is None or skeleton != _skeleton(template, messages, others):
        return _opaque(template, messages)
    return _filled_in(skeleton, messages)


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


@dataclass(frozen=True, slots=True)
class _Probe:
    """A mark that no text holds by chance, with random blanks around it that show whether a template trims."""

    core: str
    blanks: str

    @classmethod
    def draw(cls) -> _Probe:
        return cls(_core(16 + secrets.randbelow(16)), "".join(secrets.choice(_BLANKS) for _ in range(40)))

    def another(self) -> _Probe:
        """One that is longer, and differs in each of its blanks."""
        core = _core(32 + secrets.randbelow(16))
        return _Probe(core, "".join(secrets.choice(_BLANKS.replace(blank, "")) for blank in self.blanks))

    @property
    def text(self) -> str:
        return self.blanks + self.core + self.blanks


def _core(size: int) -> str:
    mark = secrets.token_hex(size)
    return f"S{mark}{_TOUCHY}{mark}S"


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where the content of message `number` comes out, and whether the template keeps the blanks at its ends."""

    number: int
    keeps_left: bool
    keeps_right: bool


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """A rendered chat without its contents: one literal more than slots, which stand between them."""

    literals: tuple[str, ...]
    slots: tuple[_Slot, ...]


def _skeleton(template: ChatTemplate, messages: Sequence[Message], probes: Mapping[int, _Probe]) -> _Skeleton | None:
    """The chat rendered with marks for these messages; None where one doesn't come out whole.

    What a template makes of a mark besides (its length, its first letter) stands in the literals, and differs from one
    set of marks to another.
    """
    marked = template.render(_plain(messages, {number: probe.text for number, probe in probes.items()}))
    numbers = {probe.core: number for number, probe in probes.items()}
    pieces = re.split("(" + "|".join(map(re.escape, numbers)) + ")", marked) if probes else [marked]
    if set(pieces[1::2]) != set(numbers):
        return None
    literals, slots = pieces[0::2], list[_Slot]()
    for index, core in enumerate(pieces[1::2]):
        blanks = probes[numbers[core]].blanks
        slots.append(_Slot(numbers[core], literals[index].endswith(blanks), literals[index + 1].startswith(blanks)))
        literals[index] = literals[index].removesuffix(blanks)
        literals[index + 1] = literals[index + 1].removeprefix(blanks)
    return _Skeleton(tuple(literals), tuple(slots))


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


def _filled_in(skeleton: _Skeleton, messages: Sequence[Message]) -> tuple[str, list[Region]]:
    """Literals and contents put together."""
    text, regions = skeleton.literals[0], list[Region]()
    for slot, literal in zip(skeleton.slots, skeleton.literals[1:], strict=True):
        message = messages[slot.number]
        content = message.content
        first = 0 if slot.keeps_left else len(content) - len(content.lstrip())
        last = len(content) if slot.keeps_right else max(len(content.rstrip()), first)
        if first < last:
            regions += _content_regions(message, slot.number, first, last, len(text) - first)
        text += content[first:last] + literal
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
