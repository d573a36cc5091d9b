"""DraftReading: what a message would give away if it were sent as it stands, read anew as it is written.

Nothing is sent and nothing is spent. The bits are a sketch's; certificate and bytes are those that a release will have.
Earlier messages of the conversation count for bytes alone: their bits are sent again as they were, at no new cost.
Knows nothing of HTTP or of how readings are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from del_client.desk import messages as read_messages
from del_client.measured import Verdict, verdict
from del_client.message import Message
from del_client.options import Options
from del_client.prepared import Prepared, cut_spans, segments_of
from del_client.prompt import Span
from del_client.protection.placeholders import Placeholders, label
from del_client.report import PrivacyReport
from del_client.session import Session
from del_client.sketch import Look, Sketch
from del_codec.bitpack import packed_size
from del_codec.errors import InvalidValue
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

MOST_TOKENS = 2048
_FP16_BYTES = 2
# What a tokenizer decodes pieces of a character to, and how many of them one may have: its bytes in UTF-8.
_PIECE, _MOST_PIECES = "\ufffd", 4


@dataclass(frozen=True, slots=True)
class Chip:
    """One private token of a draft, or a placeholder that stands in it.

    text: as its writer reads it; "" for a piece of a character, which comes with its last piece. kind: of the sensitive
    span that it is part of, "" for ordinary words.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class TokenChip(Chip):
    """A private token. setting: its noise. look: its preview. guess: what the attack takes it for, pieces of characters
    as in text; right: rightly."""

    setting: NoiseSetting
    look: Look
    guess: str
    right: bool


@dataclass(frozen=True, slots=True)
class PlaceholderChip(Chip):
    """What stays on the device. leaves: the public words that stand for it. tokens: how many those are."""

    leaves: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftReading:
    """A draft's chips in its order, and the figures of sending it.

    setting: of its ordinary words. private_tokens: of the draft. earlier_tokens: private ones of earlier messages,
    whose bits are sent again. public_tokens: all others, in the clear: the template's, placeholders, answers.
    payload_bytes: the draft's packed bits. wire_bytes: all messages of the query, earlier bits included. text_bytes: of
    the draft in UTF-8. fp16_bytes: its private tokens' embeddings. privacy: the certificate of what the draft draws
    anew; of a single token where that is nothing. verdict: on the noise of its ordinary words.
    """

    chips: tuple[Chip, ...]
    setting: NoiseSetting
    private_tokens: int
    earlier_tokens: int
    public_tokens: int
    payload_bytes: int
    wire_bytes: int
    text_bytes: int
    fp16_bytes: int
    privacy: PrivacyReport
    verdict: Verdict


def read_draft(
    session: Session, sketch: Sketch, chat: Sequence[Message | Mapping[str, Any]], options: Options
) -> DraftReading:
    """The reading of the last message of a chat, which may be empty; see Options for the noise.

    Raises InvalidValue for what can't be asked and for a draft of over MOST_TOKENS, PrivacyRefusal where no noise is
    named and there is no default.
    """
    messages, placeholders = read_messages(chat), Placeholders()
    setting = options.setting(session.table.spec)
    protected = session.desk.chat(messages, placeholders)
    parts = cut_spans(session.reader.chat(protected)) if protected[-1].content else []
    own = [part for part in parts if part.message == len(messages) - 1]
    private = sum(len(part.token_ids) for part in own if part.private)
    if private > MOST_TOKENS:
        raise InvalidValue("draft", f"{private} tokens", f"at most {MOST_TOKENS} are read while they are written")
    looks = sketch.look([(token, part.noise(setting)) for part in own if part.private for token in part.token_ids])
    draft, whole = (_blank(spans, setting, session.table) for spans in (own, parts))
    one_token = session.desk.one_token(setting)
    return DraftReading(
        chips=tuple(_chips(session.reader.tokenizer, own, setting, iter(looks), placeholders)),
        setting=setting,
        private_tokens=draft.private_tokens,
        earlier_tokens=whole.private_tokens - draft.private_tokens,
        public_tokens=whole.prompt_tokens - whole.private_tokens,
        payload_bytes=draft.payload_bytes,
        wire_bytes=session.wire_bytes(whole, options) if parts else 0,
        text_bytes=len(messages[-1].content.encode()),
        fp16_bytes=draft.private_tokens * session.table.spec.embedding_width * _FP16_BYTES,
        privacy=session.desk.privacy(draft) or one_token,
        verdict=verdict(session.table.spec, one_token),
    )


def _chips(
    tokenizer: Tokenizer, own: Sequence[Span], setting: NoiseSetting, looks: Iterator[Look], placeholders: Placeholders
) -> Iterator[Chip]:
    for part in own:
        if part.private:
            seen = [look for _, look in zip(part.token_ids, looks, strict=False)]
            texts = _texts(tokenizer, part.token_ids), _texts(tokenizer, [look.guess for look in seen])
            for token, look, text, guess in zip(part.token_ids, seen, *texts, strict=True):
                yield TokenChip(text, part.kind, part.noise(setting), look, guess, look.guess == token)
        else:
            leaves = _text(tokenizer, part.token_ids)
            secret = placeholders.secret(label(part.kind), part.secret)
            yield PlaceholderChip(secret or leaves, part.kind, leaves, len(part.token_ids))


def _texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each token's own text. Of tokens that make one character together the last has it, the others have none."""
    texts: list[str] = []
    while (at := len(texts)) < len(ids):
        for pieces in range(_MOST_PIECES):
            text = _text(tokenizer, ids[at : at + 1 + pieces])
            if _PIECE not in text:
                texts += [*[""] * pieces, text]
                break
        else:
            texts.append(_text(tokenizer, ids[at : at + 1]))
    return texts


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def _blank(spans: Sequence[Span], setting: NoiseSetting, table: LatentTable) -> Prepared:
    """The spans with zeros for their bits, of which only the number counts."""
    zeros = {}
    for at, span in enumerate(spans):
        if span.private:
            noise, tokens = span.noise(setting), len(span.token_ids)
            zeros[at] = PrivateSegment(noise, tokens, bytes(packed_size(tokens * table.spec.dim, noise.bits)))
    return Prepared(tuple(spans), segments_of(spans, zeros), table.fingerprint if zeros else "")
