"""`del-client ask`: one prompt, its answer streamed, and what it gave away."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from del_client.answer import Answer
from del_client.client import Client
from del_client.commands.arguments import (
    connected,
    read_delta,
    read_messages,
    read_options,
    read_policy,
    read_prompt,
    warn_of_range,
)
from del_client.options import Options
from del_client.report import PrivacyReport, measured_sentence
from del_client.terminal import safe
from del_codec.spec import CodecSpec

_FP16_BYTES = 2


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; 0."""
    options = {**read_options(arguments), "stop": arguments.stop, "clear": arguments.public}
    Options(**options)  # bad input is told before a server is asked for anything
    policy = read_policy(arguments)
    delta = read_delta(arguments, policy)
    prompt = read_prompt(arguments.prompt)
    messages = read_messages(prompt, arguments)
    with connected(arguments, policy) as client:
        warn_of_range(client.table.spec, arguments.mu)
        answer = client.complete(prompt, **options) if arguments.plain else client.generate(messages, **options)
        for piece in answer:
            if not arguments.json:
                sys.stdout.write(safe(piece.text))
                sys.stdout.flush()
        _print_figures(arguments, client, answer, delta, prompt)
    return 0


def _print_figures(arguments: argparse.Namespace, client: Client, answer: Answer, delta: float, prompt: str) -> None:
    report = client.desk.privacy(answer.prepared, delta)
    figures = {"text": answer.text, **_traffic(client, answer), "plain_text_bytes": len(prompt.encode())}
    figures |= _privacy(client, answer, report)
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    if not arguments.quiet:
        sys.stderr.write(_summary(figures, report, client.table.spec))


def _traffic(client: Client, answer: Answer) -> dict[str, Any]:
    width, prepared = client.table.spec.embedding_width, answer.prepared
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


def _privacy(client: Client, answer: Answer, report: PrivacyReport | None) -> dict[str, Any]:
    """The certificate's figures; null where nothing was private, since nothing was protected then."""
    names = ("mu", "bits", "delta", "epsilon_token", "epsilon_prompt", "cap_uniform", "cap_prior", "attack_recovered")
    if report is None:
        return dict.fromkeys(names)
    return {
        **asdict(report),
        "mu": round(report.mu, 3),
        "attack_recovered": client.desk.attack_recovered(answer.prepared),
    }


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
