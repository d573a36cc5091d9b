"""Draft: a prompt's private parts sorted into bits that a ledger remembers and bits that are to be drawn.

A message's bits are remembered under a keyed hash of its conversation, its number and its whole content: equal texts
elsewhere share nothing, and an edited message is a new one. Knows nothing of limits; draws nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from del_client.cutting import Span
from del_client.drawings import Drawing
from del_client.entries import Entries
from del_client.regions import TEMPLATE
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable


@dataclass(frozen=True, slots=True)
class DraftMessage:
    """One message's private parts: its number, its tag, and their places among the prompt's parts."""

    number: int
    tag: bytes
    places: tuple[int, ...]


class Draft:
    """One prompt of one conversation within one transaction.

    parts: spans that fit into a segment each. homes: as the gate's. known: remembered segments by place. new: messages
    to be drawn. drawings: their draws, joined where message, kind, secret and setting are the same.
    """

    def __init__(
        self,
        entries: Entries,
        table: LatentTable,
        parts: Sequence[Span],
        setting: NoiseSetting,
        conversation: str,
        homes: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.table = table
        self.parts = parts
        self._entries = entries
        self._setting = setting
        self._conversation = conversation
        self._homes = homes
        self.known: dict[int, PrivateSegment] = {}
        self.new: list[DraftMessage] = []
        for message in self._messages():
            segments = entries.remembered(message.tag, table.fingerprint)
            if [one.tokens for one in segments] == [len(parts[at].token_ids) for at in message.places]:
                self.known |= dict(zip(message.places, segments, strict=True))
            else:
                self.new.append(message)
        self.drawings = self._drawings()

    def home(self, message: int) -> str:
        """The conversation under which a message's draws are remembered and added up."""
        return self._homes.get(message, self._conversation)

    def setting_of(self, place: int) -> NoiseSetting:
        """The noise of a private part: the prompt's, or its own where that is stronger."""
        return self.parts[place].noise(self._setting)

    def times_drawn(self, message: DraftMessage) -> int:
        """How often this very message was drawn before, under any codec."""
        return self._entries.times_drawn(message.tag)

    @property
    def earlier_codec(self) -> str | None:
        """The codec that the conversation's latest bits were drawn with."""
        return self._entries.codec_of(self._conversation)

    def remember(self, message: DraftMessage, segments: Sequence[PrivateSegment]) -> None:
        """Keep a message's bits for when it is sent again."""
        self._entries.remember(
            message.tag,
            codec=self.table.fingerprint,
            conversation=self.home(message.number),
            message=message.number,
            segments=segments,
        )

    def _messages(self) -> list[DraftMessage]:
        places: dict[int, list[int]] = defaultdict(list)
        for at, part in enumerate(self.parts):
            if part.private:
                places[part.message].append(at)
        return [DraftMessage(number, self._tag(number), tuple(found)) for number, found in places.items()]

    def _tag(self, number: int) -> bytes:
        """Of a message's whole content, placeholders included; of the template's, only what of it is private."""
        own = [part for part in self.parts if part.message == number and (part.private or number != TEMPLATE)]
        content = [field for part in own for field in (int(part.private), part.kind, part.token_ids)]
        return self._entries.tag("message", self.home(number), number, *content)

    def _drawings(self) -> list[Drawing]:
        tokens: dict[tuple[int, str, tuple[bytes, ...], NoiseSetting], int] = defaultdict(int)
        for message in self.new:
            for at in message.places:
                part = self.parts[at]
                tokens[message.number, part.kind, self._secrets(part), self.setting_of(at)] += len(part.token_ids)
        return [Drawing(*key, count) for key, count in tokens.items()]

    def _secrets(self, part: Span) -> tuple[bytes, ...]:
        """Under what a secret's spend is added up: its text, wherever it occurs, and its number in the conversation."""
        if not part.kind:
            return ()
        by_text = self._entries.tag("secret", part.kind, part.token_ids)
        if not part.secret:
            return (by_text,)
        return by_text, self._entries.tag("numbered secret", self._conversation, part.kind, part.secret)
