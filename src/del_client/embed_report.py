"""EmbedReport: what a prompt would give away and cost if it were sent. Nothing is sent and nothing is spent.

The certificate is that of the settings in use, so it holds for the bits that a release will draw; no bits are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from del_client.prompt import Span
from del_client.report import PrivacyReport


@dataclass(frozen=True, slots=True)
class ProtectedSpan:
    """A sensitive span of a prompt. placeholder: a public stand-in leaves in its place, else its own noise does."""

    kind: str
    tokens: int
    placeholder: bool


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What would leave the device.

    payload_bytes: packed bits of the private tokens. wire_bytes: the messages of the query, with gRPC's prefix.
    privacy: the exact certificate of the private tokens; None where there are none. protected: sensitive spans that
    were found, in the prompt's order.
    """

    prompt_tokens: int
    private_tokens: int
    payload_bytes: int
    wire_bytes: int
    privacy: PrivacyReport | None
    protected: tuple[ProtectedSpan, ...]

    @property
    def public_tokens(self) -> int:
        """Tokens that would leave in the clear: the template's, public messages, placeholders, earlier answers."""
        return self.prompt_tokens - self.private_tokens

    def sentences(self) -> list[str]:
        """The report in plain words."""
        lines = [
            f"{self.prompt_tokens} tokens would leave, {self.private_tokens} of them private: "
            f"{self.payload_bytes} bytes of bits, {self.wire_bytes} bytes with the frame."
        ]
        for span in self.protected:
            how = "a placeholder" if span.placeholder else "noise of its own"
            lines.append(f"A {span.kind} of {span.tokens} tokens would leave as {how}.")
        return lines + (self.privacy.sentences() if self.privacy else ["Nothing in this prompt is private."])


def protected_spans(spans: Sequence[Span]) -> tuple[ProtectedSpan, ...]:
    """The sensitive ones among a prompt's spans."""
    return tuple(ProtectedSpan(span.kind, len(span.token_ids), not span.private) for span in spans if span.kind)
