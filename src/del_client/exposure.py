"""Exposure: what an attacker makes of a prompt's bits, token by token, as rows for a terminal.

The attack is the best on single tokens: MAP under the codec's unigram prior. Knows nothing of where bits come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from tokenizers import Tokenizer

from del_client.colours import Paint
from del_client.prepared import Prepared
from del_client.prompt import Span
from del_client.terminal import safe
from del_codec.attacks import map_guess
from del_codec.bitpack import pack
from del_codec.frame import PrivateSegment, Segment
from del_codec.table import LatentTable

SHOWN_BYTES = 24
HEADING = ("token", "attacker's guess", "posterior", "what leaves the device")


class Row(NamedTuple):
    """One private token, or some public ones: as they are, as an attacker guesses, and what leaves for them."""

    token: str
    guess: str
    posterior: str
    leaves: str
    right: bool | None = None


def rows(table: LatentTable, tokenizer: Tokenizer, prepared: Prepared) -> list[Row]:
    """The rows of a prompt."""
    pairs = zip(prepared.spans, prepared.segments, strict=True)
    return [row for span, segment in pairs for row in _rows(table, tokenizer, span, segment)]


def lines(found: list[Row], paint: Paint) -> Iterator[str]:
    """The rows in columns under a heading: what is guessed right in one colour, what is not in another."""
    cells = [HEADING, *(row[:4] for row in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    for row, right in zip(cells, [None, *(row.right for row in found)], strict=True):
        shown = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        if right is not None:
            shown[1] = paint.bad(shown[1]) if right else paint.good(shown[1])
        yield "  ".join([*shown, paint.dim(row[3]) if right is None else row[3]])


def _rows(table: LatentTable, tokenizer: Tokenizer, span: Span, segment: Segment) -> Iterator[Row]:
    if not isinstance(segment, PrivateSegment):
        count = len(span.token_ids)
        shown = _text(tokenizer, list(span.token_ids)) if span.kind else f"[{count} public]"
        yield Row(shown, "", "", f"{count} token {'id' if count == 1 else 'ids'} in the clear")
        return
    levels = segment.levels(table.spec.dim)
    guesses, posteriors = map_guess(table, levels, segment.setting, table.prior)
    for token, level, guess, posterior in zip(span.token_ids, levels, guesses.tolist(), posteriors, strict=True):
        right = guess == token
        bits = _shortened(pack(level, segment.setting.bits))
        shown = f"{posterior:.3f}{' right' if right else ''}"
        yield Row(_text(tokenizer, [token]), _text(tokenizer, [guess]), shown, bits, right)


def _shortened(data: bytes) -> str:
    return data.hex() if len(data) <= SHOWN_BYTES else f"{data[: SHOWN_BYTES - 4].hex()}… {len(data)} bytes"


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return safe(json.dumps(tokenizer.decode(ids, skip_special_tokens=False), ensure_ascii=False))
