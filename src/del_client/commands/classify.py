"""`del-client classify`: which of some labels a private text has, and what asking gave away."""

from __future__ import annotations

import argparse
import json
import sys

from del_client.classifying import Classification
from del_client.client import Client
from del_client.commands.arguments import (
    connected,
    read_delta,
    read_noise,
    read_policy,
    read_prompt,
    warn_of_range,
)
from del_client.commands.figures import in_words, privacy_figures, prompt_figures
from del_client.options import OptionArguments, Options
from del_client.terminal import safe


def run(arguments: argparse.Namespace) -> int:
    """Classify and print; 0."""
    options: OptionArguments = {**read_noise(arguments), "clear": arguments.public, "timeout": arguments.timeout}
    Options(**options)  # bad input is told before a server is asked for anything
    policy = read_policy(arguments)
    delta = read_delta(arguments, policy)
    texts = [read_prompt(arguments.prompt), *([] if arguments.pair is None else [arguments.pair])]
    with connected(arguments, policy) as client:
        warn_of_range(client.table.spec, arguments.mu)
        found = client.classify(texts, arguments.labels, task=arguments.task, template=arguments.template, **options)
        _print(arguments, client, found, delta, sum(len(text.encode()) for text in texts))
    return 0


def _print(arguments: argparse.Namespace, client: Client, found: Classification, delta: float, plain: int) -> None:
    report = client.desk.privacy(found.prepared, delta)
    figures = {
        "label": found.label,
        "labels": [
            {"label": label.text, "probability": label.probability, "logprob": label.logprob, "tokens": label.tokens}
            for label in found.labels
        ],
        **prompt_figures(client, found.prepared, found.scores.wire_bytes, plain),
        "total_ms": round(found.total_ms, 3),
        **privacy_figures(client, found.prepared, report),
    }
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    width = max(len(label.text) for label in found.labels)
    for label in found.labels:
        sys.stdout.write(f"{safe(label.text):{width}}  {label.probability:7.2%}  {label.logprob:9.3f}\n")
    sys.stdout.flush()
    if not arguments.quiet:
        took = f"{len(found.labels)} labels by their likelihood after the prompt, in {found.total_ms:.0f} ms"
        lines = ["", took, *in_words(figures, report, client.table.spec)]
        sys.stderr.write("\n".join(lines) + "\n")
