"""Protector: what of a message is sensitive, and what stands for it or how much noise it gets.

Marks are read and removed; detectors search what is left; whatever was found once in a conversation is found again
wherever else it stands, in any case. Overlaps are settled by the rule of found.py. Then the policy's kind decides:
a placeholder takes the secret's place in the text, or its characters are marked for their own noise. Knows nothing of
tokens, templates or servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from del_client.message import Message, ProtectedRange
from del_client.policy import Kind
from del_client.protection.found import Detector, Found, settle
from del_client.protection.marks import UNNAMED, read_marks
from del_client.protection.placeholders import Placeholders, forms, label, read_form
from del_client.protection.word_list import WordList, has_words
from del_codec.errors import InvalidValue


class Protector:
    """Protects messages by the kinds of a policy, for a codec of `dim` coordinates.

    detectors: searched beside the marks. Raises InvalidValue where two kinds would have the same placeholder.
    """

    def __init__(self, kinds: Mapping[str, Kind], detectors: Sequence[Detector], dim: int) -> None:
        self.kinds: Mapping[str, Kind] = MappingProxyType({UNNAMED: Kind(UNNAMED), **kinds})
        labels: dict[str, str] = {}
        for name in self.kinds:
            other = labels.setdefault(label(name), name)
            if other != name:
                raise InvalidValue("kinds", name, f"its placeholder would be that of {other}: name it otherwise")
        self._forms = forms(labels)
        self._detectors = tuple(detectors)
        self._settings = {kind.name: kind.setting(dim) for kind in self.kinds.values()}

    def protect(self, message: Message, placeholders: Placeholders) -> Message:
        """The message as it may be read: without marks, its placeholders set and its sensitive ranges marked.

        A public message is taken as it stands. `placeholders` learns of every secret and of every number that was
        typed. Raises InvalidValue for marks that don't close, ExhaustedError for too many secrets.
        """
        if message.public:
            self._note_typed(message.content, (), placeholders)
            return message
        text, found = self.find(message.content, placeholders.known)
        self._note_typed(text, found, placeholders)
        parts, ranges, position, length = [], list[ProtectedRange](), 0, 0
        for part in found:
            before, secret = text[position : part.start], text[part.start : part.end]
            kind = self.kinds[part.kind]
            if kind.mode == "placeholder":
                shown, number = placeholders.placeholder(kind.name, secret)
            else:
                shown, number = secret, placeholders.number(kind.name, secret)
            start = length + len(before)
            length = start + len(shown)
            parts += [before, shown]
            setting = self._settings[kind.name]
            ranges.append(ProtectedRange(start, length, kind.name, number, setting, max(kind.pad, 1)))
            position = part.end
        parts.append(text[position:])
        return replace(message, content="".join(parts), protected=tuple(ranges))

    def find(self, content: str, known: Mapping[str, str] = MappingProxyType({})) -> tuple[str, list[Found]]:
        """The text without its marks, and its sensitive ranges, settled. known: secrets from before, with their kinds.

        Raises InvalidValue as read_marks does.
        """
        text, found = read_marks(content, self.kinds)
        for detector in self._detectors:
            found += detector.find(text)
        settled = settle(found, self.kinds)
        secrets = dict(known) | {text[part.start : part.end]: part.kind for part in settled}
        if not secrets:
            return text, []
        return text, settle([*settled, *_again(text, secrets)], self.kinds)

    def _note_typed(self, text: str, found: Iterable[Found], placeholders: Placeholders) -> None:
        ranges = list(found)
        for match in self._forms.finditer(text):
            if not any(part.start < match.end() and match.start() < part.end for part in ranges):
                placeholders.typed(*read_form(match)[:2])


def _again(text: str, secrets: Mapping[str, str]) -> Iterable[Found]:
    """Every place where a secret stands, as whole words, in any case and spacing."""
    by_kind: dict[str, list[str]] = {}
    for secret, kind in secrets.items():
        if has_words(secret):
            by_kind.setdefault(kind, []).append(secret)
    for kind, phrases in by_kind.items():
        yield from WordList(kind, phrases).find(text)
