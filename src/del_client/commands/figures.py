"""What a prompt cost in bytes and gave away, as figures and in words: for the commands that send one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from del_client.client import Client
from del_client.prepared import Prepared
from del_client.report import PrivacyReport, measured_sentence
from del_codec.spec import CodecSpec

_FP16_BYTES = 2
_PRIVACY = ("mu", "bits", "delta", "epsilon_token", "epsilon_prompt", "cap_uniform", "cap_prior", "attack_recovered")


def prompt_figures(client: Client, prepared: Prepared, wire_bytes: int, plain_text_bytes: int) -> dict[str, Any]:
    """Tokens and bytes of what was sent, and of the text and its embeddings beside them."""
    return {
        "prompt_tokens": prepared.prompt_tokens,
        "private_tokens": prepared.private_tokens,
        "payload_bytes": prepared.payload_bytes,
        "wire_bytes": wire_bytes,
        "fp16_embedding_bytes": prepared.private_tokens * client.table.spec.embedding_width * _FP16_BYTES,
        "plain_text_bytes": plain_text_bytes,
    }


def privacy_figures(client: Client, prepared: Prepared, report: PrivacyReport | None) -> dict[str, Any]:
    """The certificate's figures; null where nothing was private, since nothing was protected then.

    "secrets" is there only where a sensitive span was sent as noise of its own.
    """
    if report is None:
        return dict.fromkeys(_PRIVACY)
    recovered = client.desk.attack_recovered(prepared)
    figures = {**asdict(report), "mu": round(report.mu, 3), "attack_recovered": recovered}
    if not report.secrets:
        del figures["secrets"]
    return figures


def in_words(figures: dict[str, Any], report: PrivacyReport | None, spec: CodecSpec) -> list[str]:
    """All of them, a line each."""
    sent = (
        f"sent {figures['prompt_tokens']} prompt tokens, {figures['private_tokens']} of them private: "
        f"{figures['payload_bytes']} bytes of bits, {figures['wire_bytes']} bytes with the frame "
        f"(the text: {figures['plain_text_bytes']}, fp16 embeddings: {figures['fp16_embedding_bytes']})"
    )
    if report is None:
        return [sent, "no privacy: every token was sent as a public id"]
    claimed = measured_sentence(spec, report)
    return [
        sent,
        f"mu {report.mu:.4g}, bits {report.bits}",
        *report.sentences(),
        f"Measured: the best attack on one token at a time recovered {figures['attack_recovered']:.1%} of this "
        "prompt's private tokens from the bits that were sent.",
        *([claimed] if claimed else []),
    ]
