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


def break_even(mine: Cost, other: Cost) -> str:
    """In words; between brackets what the spread of the seconds allows."""
    saved = other.bytes - mine.bytes
    rate = _rate(meeting(saved, mine.seconds - other.seconds))
    low, high = meeting(saved, mine.high - other.low), meeting(saved, mine.low - other.high)
    return rate if low == high else f"{rate} ({_rate(low)} to {_rate(high)})"


def seen(timed: Sequence[Result], mine: str, other: str, link: str) -> str:
    """Between which of the links that both were timed on the one stopped being sooner; "" where there are none.

    Rates in kbit/s.
    """
    by_way = {way: {result.at[link]: result.median for result in timed if result.way == way} for way in (mine, other)}
    both = sorted(by_way[mine].keys() & by_way[other].keys(), key=float)
    sooner = [rate for rate in both if by_way[mine][rate] < by_way[other][rate]]
    later = [rate for rate in both if rate not in sooner]
    bounds = [f"above {_rate(1e3 * float(sooner[-1]))}"] if sooner else []
    bounds += [f"below {_rate(1e3 * float(later[0]))}"] if later else []
    return f"; measured: {', '.join(bounds)}" if bounds else ""


def break_even_rows(known: Sequence[Cost], timed: Sequence[Result], private: str, link: str) -> list[Row]:
    """The header and a row for each way whose name begins with `private`, a cell for each other."""
    mine = [cost for cost in known if cost.way.startswith(private)]
    others = [cost for cost in known if not cost.way.startswith(private)]
    rows = [
        (cost.way, *(break_even(cost, other) + seen(timed, cost.way, other.way, link) for other in others))
        for cost in mine
    ]
    return [("sooner than", *(other.way for other in others)), *rows]


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
