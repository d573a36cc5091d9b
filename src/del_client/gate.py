"""Gate: the only door through which private words leave, as bits that are drawn here and nowhere else.

It asks the policy, finds bits that were sent before, charges what is new to the ledger, durably, and only then hands
out what may be sent. What it certifies it computes from the integers that the device samples with. Knows nothing of
texts, templates or transports.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from del_client.cutting import Span
from del_client.defaults import CEILING_MU_MILLI
from del_client.drafts import Draft
from del_client.drawings import Drawing, Standing
from del_client.ledger import Ledger
from del_client.limits import Excess, excesses
from del_client.policy import Policy
from del_client.prepared import Prepared, cut_spans, segments_of
from del_client.priors import TokenCap
from del_client.prompt import as_public
from del_client.refusal import limit_exceeded
from del_codec.encode import encode
from del_codec.errors import InvalidValue, PrivacyRefusal
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

MAX_CONVERSATION_CHARS = 256


class Gate:
    """The way out to one server under one policy. Raises PrivacyRefusal for a server that the policy doesn't list."""

    def __init__(self, policy: Policy, ledger: Ledger, server: str) -> None:
        policy.check_server(server)
        self._policy = policy
        self._ledger = ledger
        self._server = server
        self._caps: dict[str, TokenCap] = {}

    def codec_of(self, conversation: str) -> str | None:
        """The fingerprint of the codec that a conversation's latest bits were drawn with; None for a new one.

        While the server lists it, stay with it: under another codec every message would have to be drawn anew.
        """
        with self._ledger.reading() as entries:
            return entries.codec_of(conversation)

    def release(
        self,
        table: LatentTable,
        spans: Sequence[Span],
        setting: NoiseSetting,
        conversation: str | None = None,
        homes: Mapping[int, str] = MappingProxyType({}),
    ) -> Prepared:
        """The prompt's bits: those of messages sent before, and fresh ones, which are charged, for all others.

        setting: of the private spans that have none of their own. conversation: under which the bits are remembered, a
        message being known by its number and its whole content; None gives the prompt a name of its own
        (`Prepared.conversation`). homes: by number, of messages that were drawn in another conversation first: they
        repeat its bits, and what is drawn for them anew counts for its tokens as well. Returns once the charge is on
        the disk. Raises PrivacyRefusal (LimitExceeded where a limit is), InvalidValue.
        """
        self._policy.check_codec(table.fingerprint, self._server)
        name = _checked(conversation) if conversation is not None else secrets.token_hex(16)
        parts = tuple(cut_spans(spans))
        drawn: dict[int, PrivateSegment] = {}
        fresh: dict[int, PrivateSegment] = {}
        if any(part.private for part in parts):
            with self._ledger.writing() as entries:
                draft = Draft(entries, table, parts, setting, name, homes)
                drawn |= draft.known
                if draft.new:
                    standing = Standing(entries, self._policy, name, draft.drawings, draft.home)
                    self._check(draft, standing)
                    standing.write(table, draft.drawings)
                    charges = [one.charge(table, self._policy.delta) for one in draft.drawings]
                    entries.charge(charges, server=self._server, codec=table.fingerprint, conversation=name)
                    fresh = self._draw(draft)
                    entries.drop_oldest(self._policy.memory_bytes)
        return Prepared(parts, segments_of(parts, drawn | fresh), table.fingerprint, name, tuple(sorted(fresh)))

    def public(self, spans: Sequence[Span]) -> Prepared:
        """The prompt in the clear: no privacy at all. Raises PrivacyRefusal unless the policy allows it."""
        private = sum(len(span.token_ids) for span in spans if span.private)
        if private and not self._policy.allow_clear:
            raise PrivacyRefusal(
                f"{private} private tokens were to be sent in the clear, which the policy forbids: nothing was sent; "
                "send them privately, or set allow_clear = true"
            )
        if private:
            with self._ledger.writing() as entries:
                entries.note_clear(self._server, private)
        parts = tuple(cut_spans(as_public(spans)))
        return Prepared(parts, segments_of(parts, {}))

    def _draw(self, draft: Draft) -> dict[int, PrivateSegment]:
        """Draw what is new, and remember it; the fresh segments by their place."""
        fresh: dict[int, PrivateSegment] = {}
        for message in draft.new:
            drawn = [encode(draft.table, draft.parts[at].token_ids, draft.setting_of(at)) for at in message.places]
            fresh |= dict(zip(message.places, drawn, strict=True))
            draft.remember(message, drawn)
        return fresh

    def _check(self, draft: Draft, standing: Standing) -> None:
        """Raise PrivacyRefusal for what the policy doesn't allow to be drawn."""
        table = draft.table
        self._check_mu(table, draft.drawings)
        self._check_redraws(draft)
        cap = self._caps.setdefault(table.fingerprint, TokenCap(table, self._policy))

        def judge(candidates: Sequence[Drawing]) -> list[Excess]:
            return excesses(self._policy, standing.uses(table, candidates), cap)

        found = judge(draft.drawings)
        if found:
            raise limit_exceeded(draft.drawings, found, judge, table.spec.dim)

    def _check_mu(self, table: LatentTable, drawings: Sequence[Drawing]) -> None:
        most = min(CEILING_MU_MILLI, table.spec.mu_milli_max) / 1000
        mu = max(one.setting.mu(table.spec.dim) for one in drawings)
        if mu > most and not self._policy.allow_weak:
            raise PrivacyRefusal(
                f"mu {mu:.4g} is {mu - most:.3g} above {most:g} (12, or less if the codec was trained for less), and "
                f"the policy forbids weaker noise: nothing was sent; use mu {most:g}, or set allow_weak = true"
            )

    def _check_redraws(self, draft: Draft) -> None:
        for message in draft.new:
            drawn = draft.times_drawn(message)
            if drawn > self._policy.redraws:
                raise PrivacyRefusal(
                    f"message {message.number} was drawn {drawn} times already, and those bits are no longer kept, or "
                    f"another codec's: the conversation's is {draft.earlier_codec}, this is {draft.table.fingerprint}; "
                    "fresh noise for the same text tells more of it, and the policy allows "
                    f"{self._policy.redraws} redraws; nothing was sent; use the earlier codec, begin a new "
                    "conversation, or raise `redraws`"
                )


def _checked(conversation: str) -> str:
    if not isinstance(conversation, str) or not 1 <= len(conversation) <= MAX_CONVERSATION_CHARS:
        raise InvalidValue("conversation", conversation, f"name it in 1 to {MAX_CONVERSATION_CHARS} characters")
    return conversation
