"""`del-client inspect`: what a server could read from each token of a prompt.

The bits shown are drawn for this preview alone and never sent: choosing among draws would void the certificate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from del_client.client import Client
from del_client.colours import Paint
from del_client.commands.arguments import (
    read_access,
    read_messages,
    read_noise,
    read_policy,
    read_prompt,
    warn_of_range,
)
from del_client.desk import Desk
from del_client.exposure import lines, rows
from del_client.options import Options
from del_client.pinned import load_reader
from del_client.prepared import Prepared
from del_codec.shipped import CHAT_TEMPLATE_FILE, DEVICE_FILE, TOKENIZER_FILE
from del_codec.table import LatentTable


def run(arguments: argparse.Namespace) -> int:
    """Draw a preview, attack it and print; 0."""
    messages = read_messages(read_prompt(arguments.prompt), arguments)
    options = Options(**read_noise(arguments))
    desk = _local(arguments) if arguments.codec else _fetched(arguments)
    warn_of_range(desk.table.spec, arguments.mu)
    protected = desk.chat(messages)
    spans = desk.reader.text(protected[-1]) if arguments.plain else desk.reader.chat(protected)
    prepared = desk.preview(spans, options)
    for line in lines(rows(desk.table, desk.reader.tokenizer, prepared), Paint.of(sys.stdout)):
        sys.stdout.write(line + "\n")
    sys.stdout.write(_summary(desk, prepared, arguments.delta))
    return 0


def _local(arguments: argparse.Namespace) -> Desk:
    """From a codec's folder, or its device half; the tokenizer beside it is used if its hash is right."""
    path: Path = arguments.codec / DEVICE_FILE if arguments.codec.is_dir() else arguments.codec
    table = LatentTable.load(path)
    tokenizer = arguments.tokenizer or _beside(path, TOKENIZER_FILE)
    template = arguments.chat_template or _beside(path, CHAT_TEMPLATE_FILE)
    return Desk(table, load_reader(table.spec, tokenizer, template), read_policy(arguments))


def _beside(path: Path, name: str) -> Path | None:
    found = path.with_name(name)
    return found if found.exists() else None


def _fetched(arguments: argparse.Namespace) -> Desk:
    files = {"tokenizer": arguments.tokenizer, "chat_template": arguments.chat_template}
    access = read_access(arguments)
    with Client(arguments.server, policy=read_policy(arguments), access=access, **files) as client:
        return client.desk


def _summary(desk: Desk, prepared: Prepared, delta: float | None) -> str:
    report = desk.privacy(prepared, delta)
    if report is None:
        return "\nnothing in this prompt is private\n"
    share = desk.attack_recovered(prepared)
    lines = [
        "",
        f"{share:.1%} of {report.private_tokens} private tokens guessed right (mu {report.mu:.4g}, bits {report.bits}, "
        f"{prepared.payload_bytes} bytes). A preview: what is sent is drawn anew.",
        *report.sentences(),
    ]
    return "\n".join(lines) + "\n"
