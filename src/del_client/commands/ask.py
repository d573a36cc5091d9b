"""`del-client ask`: one prompt, its answer streamed, and what it gave away."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from typing import Any

from del_client.commands.arguments import connect, read_prompt, read_setting, read_spans
from del_client.prepared import Prepared
from del_client.prompt import as_public
from del_client.query import GenerationOptions
from del_client.report import PrivacyReport, measured_sentence
from del_client.session import Answer, AsyncClient
from del_client.terminal import safe
from del_codec.spec import CodecSpec

_FP16_BYTES = 2


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; 0."""
    options = GenerationOptions(
        max_new_tokens=arguments.max_tokens or 0,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    asyncio.run(_ask(arguments, read_prompt(arguments.prompt), options))
    return 0


async def _ask(arguments: argparse.Namespace, prompt: str, options: GenerationOptions) -> None:
    async with connect(arguments) as client:
        spans = read_spans(client.reader, prompt, arguments)
        if arguments.public:
            spans = as_public(spans)
        prepared = client.prepare(spans, read_setting(client.table.spec, arguments))
        report = client.privacy(prepared, arguments.delta)
        answer = client.send(prepared, options)
        pieces = []
        async for delta in answer:
            pieces.append(delta.text)
            if not arguments.json:
                sys.stdout.write(safe(delta.text))
                sys.stdout.flush()
    figures = {"text": "".join(pieces), **_traffic(client, prepared, answer), "plain_text_bytes": len(prompt.encode())}
    figures |= _privacy(client, prepared, report)
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    sys.stderr.write(_summary(figures, report, client.table.spec))


def _traffic(client: AsyncClient, prepared: Prepared, answer: Answer) -> dict[str, Any]:
    width = client.table.spec.embedding_width
    return {
        "finish_reason": answer.finish.reason,
        "prompt_tokens": prepared.prompt_tokens,
        "private_tokens": prepared.private_tokens,
        "new_tokens": answer.finish.usage.new_tokens,
        "payload_bytes": prepared.payload_bytes,
        "wire_bytes": answer.finish.wire_bytes,
        "fp16_embedding_bytes": prepared.private_tokens * width * _FP16_BYTES,
        "ttft_ms": round(answer.ttft_ms, 3),
        "total_ms": round(answer.total_ms, 3),
    }


def _privacy(client: AsyncClient, prepared: Prepared, report: PrivacyReport | None) -> dict[str, Any]:
    """The certificate's figures; null where nothing was private, since nothing was protected then."""
    names = ("mu", "bits", "delta", "epsilon_token", "epsilon_prompt", "cap_uniform", "cap_prior", "attack_recovered")
    if report is None:
        return dict.fromkeys(names)
    return {**asdict(report), "mu": round(report.mu, 3), "attack_recovered": client.attack_recovered(prepared)}


def _summary(figures: dict[str, Any], report: PrivacyReport | None, spec: CodecSpec) -> str:
    lines = [
        "",
        f"{figures['new_tokens']} tokens, the first after {figures['ttft_ms']:.0f} ms, all after "
        f"{figures['total_ms']:.0f} ms ({figures['finish_reason']})",
        f"sent {figures['prompt_tokens']} prompt tokens, {figures['private_tokens']} of them private: "
        f"{figures['payload_bytes']} bytes of bits, {figures['wire_bytes']} bytes with the frame "
        f"(the text: {figures['plain_text_bytes']}, fp16 embeddings: {figures['fp16_embedding_bytes']})",
    ]
    if report is None:
        lines.append("no privacy: every token was sent as a public id")
    else:
        lines.append(f"mu {report.mu:.4g}, bits {report.bits}")
        lines += report.sentences()
        lines.append(
            f"Measured: the best attack on one token at a time recovered {figures['attack_recovered']:.1%} of this "
            "prompt's private tokens from the bits that were sent."
        )
        claimed = measured_sentence(spec, report)
        lines += [claimed] if claimed else []
    return "\n".join(lines) + "\n"
