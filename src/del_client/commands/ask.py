"""`del-client ask`: one prompt, its answer streamed, and what it gave away."""

from __future__ import annotations

import argparse
import json
import sys

from del_client.answer import Answer
from del_client.client import Client
from del_client.commands.arguments import (
    connected,
    read_delta,
    read_messages,
    read_options,
    read_policy,
    read_prompt,
    read_shaping,
    warn_of_range,
)
from del_client.commands.figures import in_words, privacy_figures, prompt_figures
from del_client.options import Options
from del_client.terminal import safe


def run(arguments: argparse.Namespace) -> int:
    """Ask and print; 0."""
    options = {**read_options(arguments), "stop": arguments.stop, "clear": arguments.public}
    Options(**options)  # bad input is told before a server is asked for anything
    policy = read_policy(arguments)
    delta = read_delta(arguments, policy)
    prompt = read_prompt(arguments.prompt)
    messages = read_messages(prompt, arguments)
    with connected(arguments, policy, read_shaping(arguments)) as client:
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
    figures = {
        "text": answer.text,
        "finish_reason": answer.finish.reason,
        "new_tokens": answer.finish.usage.new_tokens,
        **prompt_figures(client, answer.prepared, answer.finish.wire_bytes, len(prompt.encode())),
        "ttft_ms": round(answer.ttft_ms, 3),
        "total_ms": round(answer.total_ms, 3),
        **privacy_figures(client, answer.prepared, report),
    }
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    if not arguments.quiet:
        took = (
            f"{figures['new_tokens']} tokens, the first after {figures['ttft_ms']:.0f} ms, all after "
            f"{figures['total_ms']:.0f} ms ({figures['finish_reason']})"
        )
        sys.stderr.write("\n".join(["", took, *in_words(figures, report, client.table.spec)]) + "\n")
