"""`del-client inspect`: what a server could read from each token of a prompt.

The bits shown are drawn for this preview alone and never sent: choosing among draws would void the certificate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from del_client.commands.arguments import connect, read_prompt, read_setting, read_spans
from del_client.pinned import load_reader
from del_client.prepared import Prepared, preview
from del_client.prompt import PromptReader, Span
from del_client.report import attack_recovered, privacy_report
from del_client.terminal import safe
from del_codec.attacks import map_guess
from del_codec.bitpack import pack
from del_codec.frame import PrivateSegment, Segment
from del_codec.shipped import CHAT_TEMPLATE_FILE, DEVICE_FILE, TOKENIZER_FILE
from del_codec.table import LatentTable

Row = tuple[str, str, str, str]


def run(arguments: argparse.Namespace) -> int:
    """Draw a preview, attack it and print; 0."""
    prompt = read_prompt(arguments.prompt)
    table, reader = _local(arguments) if arguments.codec else asyncio.run(_fetched(arguments))
    prepared = preview(table, read_spans(reader, prompt, arguments), read_setting(table.spec, arguments))
    rows: list[Row] = [("token", "attacker's guess", "posterior", "what leaves the device")]
    for span, segment in zip(prepared.spans, prepared.segments, strict=True):
        rows += _rows(table, reader, span, segment)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        sys.stdout.write(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) + "\n"
        )
    sys.stdout.write(_summary(table, prepared, arguments.delta))
    return 0


def _local(arguments: argparse.Namespace) -> tuple[LatentTable, PromptReader]:
    """From a codec's folder, or its device half; the tokenizer beside it is used if its hash is right."""
    path: Path = arguments.codec / DEVICE_FILE if arguments.codec.is_dir() else arguments.codec
    table = LatentTable.load(path)
    tokenizer = arguments.tokenizer or _beside(path, TOKENIZER_FILE)
    template = arguments.chat_template or _beside(path, CHAT_TEMPLATE_FILE)
    return table, load_reader(table.spec, tokenizer, template)


def _beside(path: Path, name: str) -> Path | None:
    found = path.with_name(name)
    return found if found.exists() else None


async def _fetched(arguments: argparse.Namespace) -> tuple[LatentTable, PromptReader]:
    async with connect(arguments) as client:
        return client.table, client.reader


def _rows(table: LatentTable, reader: PromptReader, span: Span, segment: Segment) -> Iterator[Row]:
    if not isinstance(segment, PrivateSegment):
        count = len(span.token_ids)
        yield f"[{count} public]", "", "", f"{count} token {'id' if count == 1 else 'ids'} in the clear"
        return
    levels = segment.levels(table.spec.dim)
    guesses, posteriors = map_guess(table, levels, segment.setting, table.prior)
    for token, level, guess, posterior in zip(span.token_ids, levels, guesses.tolist(), posteriors, strict=True):
        hit = " right" if guess == token else ""
        bits = pack(level, segment.setting.bits).hex()
        yield _shown(reader, token), _shown(reader, guess), f"{posterior:.3f}{hit}", bits


def _shown(reader: PromptReader, token: int) -> str:
    return safe(json.dumps(reader.tokenizer.decode([token], skip_special_tokens=False), ensure_ascii=False))


def _summary(table: LatentTable, prepared: Prepared, delta: float) -> str:
    report = privacy_report(table, prepared.segments, delta)
    if report is None:
        return "\nnothing in this prompt is private\n"
    share = attack_recovered(table, prepared.spans, prepared.segments)
    lines = [
        "",
        f"{share:.1%} of {report.private_tokens} private tokens guessed right (mu {report.mu:.4g}, bits {report.bits}, "
        f"{prepared.payload_bytes} bytes). A preview: what is sent is drawn anew.",
        *report.sentences(),
    ]
    return "\n".join(lines) + "\n"
