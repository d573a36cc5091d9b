"""Targets of the ledger: what was received is charged whenever a device dies, and what a charge costs."""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import cache
from pathlib import Path

from benchmarks.ledger_kills import run
from benchmarks.target import Target
from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Limit, Policy, UnitLimits
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

QUERIES = 500
TOKENS = 256


@cache
def kills() -> dict[str, int]:
    """One run of the kills; it ends with an error if a query that was received is not charged."""
    return run(QUERIES, seed=0)


def charged_above_a_kill() -> float:
    """Queries charged and not received, over kills."""
    return kills()["above"] / kills()["kills"]


@cache
def charging() -> tuple[float, float]:
    """(median milliseconds, bytes of the file) of a query of 256 private tokens under limits, each a conversation."""
    table = LatentTable.load(codec_folders()[0] / DEVICE_FILE)
    setting = NoiseSetting.from_mu(11, table.spec.dim, 1)
    limits = UnitLimits(token=Limit(epsilon=1e3), conversation=Limit(rho=1e9), day=Limit(epsilon=1e9))
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        with Ledger(path) as ledger:
            gate = Gate(Policy(limits=limits, memory_bytes=0), ledger, "server")
            for number in range(QUERIES):
                start = time.perf_counter()
                gate.release(table, [Span(tuple(range(TOKENS)), private=True, message=0)], setting, str(number))
                times.append(time.perf_counter() - start)
        size = path.stat().st_size
    return statistics.median(times) * 1000, size / QUERIES


TARGETS = [
    Target("ledger.received_of_500_killed_queries", QUERIES, "at least", lambda: float(kills()["queries"])),
    Target("ledger.queries_charged_in_excess_of_a_kill", 1, "at most", charged_above_a_kill),
    Target("ledger.release_of_256_tokens_ms", 50, "at most", lambda: charging()[0]),
    Target("ledger.bytes_a_query_without_its_bits", 2000, "at most", lambda: charging()[1]),
]
