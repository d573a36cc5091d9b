"""The "del" key of an answer: what it gave away, what of that was charged now, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from del_client.answer import Answer
from del_client.client import AsyncClient
from del_client.defaults import range_warning
from del_client.gateway.finite import finite
from del_client.report import PrivacyReport, measured_sentence

_CERTIFICATE = ("mu", "bits", "delta", "epsilon_token", "epsilon_prompt", "cap_uniform", "cap_prior", "secrets")


def report(client: AsyncClient, answers: Sequence[Answer]) -> dict[str, Any]:
    """The figures of one request's answers, which share their prompts' bits; docs/gateway.md says what each is."""
    prompts = list({answer.prepared.conversation or answer.prepared: answer.prepared for answer in answers}.values())
    fresh = [segment for answer in answers for segment in answer.prepared.fresh_segments]
    if len(prompts) == 1:
        certificate = client.desk.privacy(prompts[0])
    else:
        certificate = client.desk.certificate(segment for one in prompts for segment in one.segments)
    charged = client.desk.certificate(fresh)
    figures = {
        "prompt_tokens": sum(one.prompt_tokens for one in prompts),
        "private_tokens": sum(one.private_tokens for one in prompts),
        "charged_tokens": sum(segment.tokens for segment in fresh),
        "epsilon_charged": 0.0 if charged is None else charged.epsilon_prompt,
        **_figures(certificate),
        "payload_bytes": sum(one.payload_bytes for one in prompts),
        "wire_bytes": sum(answer.wire_bytes for answer in answers),
        "ttft_ms": round(min(answer.ttft_ms for answer in answers), 3),
        "total_ms": round(max(answer.total_ms for answer in answers), 3),
        "sentences": _sentences(client, certificate),
    }
    return {name: finite(value) for name, value in figures.items()}


def _sentences(client: AsyncClient, certificate: PrivacyReport | None) -> list[str]:
    """All of it in plain words, weak settings named as such."""
    if certificate is None:
        return ["No privacy: every token was sent as a public id."]
    said = (measured_sentence(client.table.spec, certificate), range_warning(client.table.spec, certificate.mu))
    return [*certificate.sentences(), *(sentence for sentence in said if sentence)]


def _figures(certificate: PrivacyReport | None) -> dict[str, Any]:
    """Its figures; null where nothing was private, since nothing was protected then."""
    if certificate is None:
        return dict.fromkeys(_CERTIFICATE)
    figures = asdict(certificate)
    return {name: figures[name] for name in _CERTIFICATE} | {"mu": round(certificate.mu, 3)}
