"""Prepared: a prompt whose bits are drawn, which is all that a transport sends of it.

Knows nothing of policies, ledgers or servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from del_client.prompt import Span
from del_codec.encode import encode
from del_codec.errors import PrivacyRefusal
from del_codec.frame import MAX_SEGMENT_TOKENS, PrivateSegment, PublicSegment, Segment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt whose bits are drawn: sending it again, after a lost connection say, repeats them at no new cost.

    fingerprint: of the codec that they were drawn with, "" where none were. conversation: what the ledger remembers
    them under, "" for a preview, which nobody was charged for. fresh: the places of segments that were drawn, and
    charged, when this was prepared; the other private ones are bits that were sent before.
    """

    spans: tuple[Span, ...]
    segments: tuple[Segment, ...]
    fingerprint: str = ""
    conversation: str = ""
    fresh: tuple[int, ...] = ()

    @property
    def fresh_segments(self) -> tuple[Segment, ...]:
        """What was charged when this was prepared."""
        return tuple(self.segments[place] for place in self.fresh)

    @property
    def prompt_tokens(self) -> int:
        """All tokens."""
        return sum(segment.tokens for segment in self.segments)

    @property
    def private_tokens(self) -> int:
        """Tokens that were randomised."""
        return sum(segment.tokens for segment in self.segments if isinstance(segment, PrivateSegment))

    @property
    def payload_bytes(self) -> int:
        """Bytes of their packed levels."""
        return sum(len(segment.payload) for segment in self.segments if isinstance(segment, PrivateSegment))

    def check_released(self) -> None:
        """Raise PrivacyRefusal for a preview: no ledger has its bits, and choosing among draws voids certificates."""
        if self.private_tokens and not self.conversation:
            raise PrivacyRefusal(
                "these bits are a preview's and were charged to no ledger: nothing was sent; ask instead"
            )


def preview(table: LatentTable, spans: Sequence[Span], setting: NoiseSetting) -> Prepared:
    """The private spans randomised at `setting`, or their own, for a look: these bits must never be sent."""
    parts = tuple(cut_spans(spans))
    drawn = {
        at: preview_bits(table, part.token_ids, part.noise(setting)) for at, part in enumerate(parts) if part.private
    }
    return Prepared(parts, segments_of(parts, drawn), table.fingerprint)


def preview_bits(table: LatentTable, token_ids: Sequence[int], setting: NoiseSetting) -> PrivateSegment:
    """Token ids randomised for a look, which no ledger knows of: these bits must never be sent."""
    return encode(table, token_ids, setting)


def segments_of(parts: Sequence[Span], drawn: Mapping[int, PrivateSegment]) -> tuple[Segment, ...]:
    """A prompt's segments: those drawn, by place, and the ids of public parts. Every private part must be drawn."""
    return tuple(drawn[at] if part.private else PublicSegment(part.token_ids) for at, part in enumerate(parts))


def cut_spans(spans: Sequence[Span]) -> list[Span]:
    """The spans in pieces that fit into a segment each."""
    return [
        replace(span, token_ids=span.token_ids[at : at + MAX_SEGMENT_TOKENS])
        for span in spans
        for at in range(0, len(span.token_ids), MAX_SEGMENT_TOKENS)
    ]
