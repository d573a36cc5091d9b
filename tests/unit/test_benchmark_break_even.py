"""Break-even of two ways to send a prompt: what saves bytes and costs time is sooner on slow links alone."""

from __future__ import annotations

import math

import pytest

from benchmarks.break_even import Cost, break_even, meeting
from benchmarks.carried import PEERS, private
from benchmarks.report.results import Recorder, Result, Run
from benchmarks.wire_cost import LINK, sheets


@pytest.mark.parametrize(
    ("saved", "later", "rate"),
    [(1000, 0.5, 16_000), (1000, 0.0, math.inf), (1000, -0.1, math.inf), (0, 0.1, 0.0), (-10, 0.1, 0.0)],
)
def test_two_ways_meet_where_bytes_saved_take_the_seconds_lost(saved: float, later: float, rate: float) -> None:
    assert meeting(saved, later) == rate


def test_below_that_rate_the_compact_way_is_sooner_and_above_it_later() -> None:
    small, large = Cost("small", 1000, 0.6, 0.6, 0.6), Cost("large", 101_000, 0.2, 0.2, 0.2)
    rate = meeting(large.bytes - small.bytes, small.seconds - large.seconds)
    for factor, sooner in ((0.9, True), (1.1, False)):
        small_first, large_first = (cost.seconds + 8 * cost.bytes / (factor * rate) for cost in (small, large))
        assert (small_first < large_first) is sooner


def test_the_spread_of_the_seconds_bounds_the_rate() -> None:
    mine, other = Cost("mine", 1000, 0.6, 0.4, 1.2), Cost("other", 101_000, 0.2, 0.2, 0.2)
    assert break_even(mine, other) == "2 Mbit/s (800 kbit/s to 4 Mbit/s)"


def result(name: str, way: str, at: dict[str, float | str], value: float) -> Result:
    record = Recorder("wire")
    record.add(name, value, "", "lower", way, {"TLS": "off", **at})
    (found,) = record.results()
    return found


def test_the_sheet_sets_every_private_way_beside_every_other_and_beside_what_was_measured() -> None:
    counted = {"prompt tokens": 256, "streams": 1}
    results = []
    for way, size, unshaped in ((private(1), 10, 0.9), (PEERS[1], 1000, 0.1), (PEERS[5], 4, 0.1)):
        results += [
            result("bytes up a token", way, counted, size),
            result("first token, unshaped", way, {}, unshaped),
            *(
                result("first token", way, {LINK: rate}, unshaped + 256 * 8 * size / rate / 1e3)
                for rate in (64, 20_000)
            ),
        ]
    (sheet,) = sheets(Run("x", "", 0.0, True, {}, tuple(results)))
    assert sheet.rows == [
        ("sooner than", PEERS[1], PEERS[5]),
        (private(1), "2.53 Mbit/s; measured: above 64 kbit/s, below 20 Mbit/s", "none; measured: below 64 kbit/s"),
    ]


def test_a_run_without_bytes_or_seconds_has_no_sheet() -> None:
    assert sheets(Run("x", "", 0.0, True, {}, ())) == []
