"""Found: where a detector saw something sensitive; Detector: what finds it; and the rule for overlaps.

The rule: ranges that overlap are joined, so that no character which any detector marked is left out, and the joined
range is of the kind that protects most: a placeholder before noise, more noise before less; then of the longest range;
then of the kind that the policy names first. Ranges that only touch stay apart. Knows nothing of placeholders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from del_client.policy import Kind


@dataclass(frozen=True, slots=True)
class Found:
    """Characters start to end (exclusive) of a text that are of a kind."""

    start: int
    end: int
    kind: str


class Detector(Protocol):
    """Finds sensitive ranges. A deployment's own detector needs no more than this."""

    def find(self, text: str) -> Iterable[Found]:
        """The ranges in a text, in any order; they may overlap."""


def settle(found: Iterable[Found], kinds: Mapping[str, Kind]) -> list[Found]:
    """The ranges joined by the rule, ascending and apart; empty ones and those of unknown kinds are left out."""
    order = {name: index for index, name in enumerate(kinds)}
    ranges = sorted((part for part in found if part.start < part.end and part.kind in kinds), key=lambda p: p.start)
    settled: list[Found] = []
    best: tuple[float, int, int] | None = None
    for part in ranges:
        rank = _rank(part, kinds[part.kind], order[part.kind])
        if best is None or part.start >= settled[-1].end:
            settled.append(part)
            best = rank
            continue
        last = settled[-1]
        kind = part.kind if rank < best else last.kind
        settled[-1] = Found(last.start, max(last.end, part.end), kind)
        best = min(best, rank)
    return settled


def _rank(part: Found, kind: Kind, position: int) -> tuple[float, int, int]:
    """Least for what decides the kind."""
    noise = -math.inf if kind.mu is None else kind.mu / math.sqrt((1 << kind.bits) - 1)
    return noise, part.start - part.end, position
