"""Where compact codes pay: the rate of a link below which a private prompt's answer begins sooner than another way's.

A first token comes after what it takes on an unbounded link plus its bytes over the rate, so two ways meet at the rate
8 * (bytes that one saves) / (seconds that it is later). Knows nothing of how bytes and seconds were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.results import Result, Run
from benchmarks.report.tables import Row, quantity

HEADER = ("way", "beside", "bytes saved a prompt", "later, unshaped", "sooner below", "measured")


@dataclass(frozen=True, slots=True)
class Cost:
    """One way: bytes of a prompt, and seconds to its first token on an unbounded link, with their spread."""

    way: str
    bytes: float
    seconds: float
    low: float
    high: float


def meeting(saved: float, later: float) -> float:
    """Bits a second below which the first of two ways is sooner: 0 where it saves no bytes, infinity for any rate."""
    if saved <= 0:
        return 0.0
    return 8 * saved / later if later > 0 else math.inf


def break_even_row(mine: Cost, other: Cost, measured: str) -> Row:
    """One line of the sheet; between brackets what the spread of the seconds allows."""
    saved, later = other.bytes - mine.bytes, mine.seconds - other.seconds
    low, high = meeting(saved, mine.high - other.low), meeting(saved, mine.low - other.high)
    rate = _rate(meeting(saved, later))
    spread = "" if low == high else f" ({_rate(low)} to {_rate(high)})"
    shown = quantity(later, "s") if later >= 0 else f"-{quantity(-later, 's')}"
    return mine.way, other.way, quantity(saved, "B"), shown, f"{rate}{spread}", measured


def found(timed: Sequence[Result], mine: str, other: str, link: str) -> str:
    """Over which of the links that both were timed on the one was sooner, in words; "" where there is none."""
    by_way = {way: {result.at[link]: result.median for result in timed if result.way == way} for way in (mine, other)}
    both = sorted(by_way[mine].keys() & by_way[other].keys(), key=float)
    sooner = [f"{rate:g}" for rate in both if by_way[mine][rate] < by_way[other][rate]]
    later = [f"{rate:g}" for rate in both if by_way[mine][rate] >= by_way[other][rate]]
    parts = [("sooner", sooner), ("later", later)]
    return "; ".join(f"{word} at {', '.join(rates)} kbit/s" for word, rates in parts if rates)


def costs(counted: Sequence[Result], unshaped: Sequence[Result], tokens: int, suffix: str) -> list[Cost]:
    """Of each way whose bytes and seconds are both known; a way with this suffix has the bytes of that without."""
    sizes = {result.way: tokens * result.median for result in counted}
    return [
        Cost(result.way, sizes[result.way.removesuffix(suffix)], result.median, *result.spread)
        for result in unshaped
        if result.way.removesuffix(suffix) in sizes
    ]


def _rate(bits: float) -> str:
    if bits == 0:
        return "none"
    if math.isinf(bits):
        return "any"
    for factor, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= factor:
            return quantity(bits / factor, unit)
    return quantity(bits, "bit/s")


def results_at(run: Run, group: str, name: str, **place: float | str) -> list[Result]:
    """Results of that name whose places hold these."""
    return [result for result in run.of(group) if result.name == name and place.items() <= dict(result.at).items()]
